"""What `segtrain predict` does once its flags are read."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import torch

from segtrain import distributed
from segtrain.build import register_components
from segtrain.cli.common import FAILED
from segtrain.data.feed import Key, Source, by_size
from segtrain.data.files import ImageFiles, named_files
from segtrain.data.labels import LabelSpec
from segtrain.data.transforms import compose
from segtrain.errors import ConfigError, DataError
from segtrain.task import probabilities
from segtrain.trained import Trained, load_trained


class Answer(NamedTuple):
    """What a classifier says of one image, the most probable class first; or why it says nothing."""

    image: str
    classes: list[tuple[str, float]]
    seconds: float
    error: str = ""


def run(args: argparse.Namespace) -> int:
    """The whole job; returns the exit code, which is that of a failure if an image could not be read."""
    register_components(args.modules)
    files = named_files(args.inputs)
    trained = load_trained(args.checkpoint, distributed.start(args.device), weights=args.weights)
    if trained.task.kind != "classification":
        raise ConfigError(f"{args.checkpoint} is a {trained.task.kind} model; predict takes classifiers")
    topk = min(args.topk, trained.task.num_classes)
    failed = 0
    with _table(args.out) as table:
        rows = csv.writer(table, lineterminator="\n")
        columns = [f"{what}_{rank}" for rank in range(1, topk + 1) for what in ("class", "probability")]
        rows.writerow(["image", *columns])
        for number, answer in enumerate(classify(trained, files, topk, args.batch), start=1):
            if answer.error:
                failed += 1
                print(f"error: {answer.error}", file=sys.stderr)
                continue
            rows.writerow([answer.image, *(cell for name, share in answer.classes for cell in (name, f"{share:.6f}"))])
            if not args.quiet:
                print(_line(number, len(files), answer))
    if not args.quiet:
        print(f"{len(files) - failed} of {len(files)} images in {args.out / 'predictions.csv'}")
    return FAILED if failed else 0


@torch.inference_mode()
def classify(trained: Trained, files: tuple[Path, ...], topk: int, batch_size: int) -> Iterator[Answer]:
    """The answers in the order of the files, which are read and prepared as those of validation are."""
    task = trained.task
    labels = LabelSpec(task.classes, ignore_index=task.ignore_index)
    source = Source(ImageFiles(files, labels, task.kind), compose(trained.prepare), seed=0)
    for start in range(0, len(files), batch_size):
        began = time.perf_counter()
        names = [str(file) for file in files[start : start + batch_size]]
        samples = [source[Key(0, index)] for index in range(start, start + len(names))]
        said: dict[str, list[tuple[str, float]]] = {}
        for batch in by_size([sample for sample in samples if not isinstance(sample, DataError)]):
            with trained.precision.autocast():
                logits = trained.model(batch.to(trained.precision.device).image)
            best = probabilities(logits).topk(topk, 1)
            for name, shares, indices in zip(batch.ids, best.values.tolist(), best.indices.tolist(), strict=True):
                said[name] = [(task.classes[index], share) for index, share in zip(indices, shares, strict=True)]
        seconds = (time.perf_counter() - began) / len(names)
        for name, sample in zip(names, samples, strict=True):
            error = "; ".join(sample.messages) if isinstance(sample, DataError) else ""
            yield Answer(name, said.get(name, []), seconds, error)


def _table(folder: Path) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return open(folder / "predictions.csv", "w", encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error


def _line(number: int, total: int, answer: Answer) -> str:
    shares = ", ".join(f"{name} {100 * share:.3g} %" for name, share in answer.classes)
    return f"img {number:>{len(str(total))}}/{total}  {answer.seconds:.3f} s  {answer.image}  {shares}"
