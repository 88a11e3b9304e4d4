"""What `segtrain mining` does once its flags are read: one pass over the data, in the memory of some histograms."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from segtrain import distributed
from segtrain.build import first, register_components
from segtrain.checkpoint import NO_SPACE
from segtrain.cli import mining_tables as tables
from segtrain.cli.data_common import component, new_folder, watch
from segtrain.cli.mining_models import Ranking, loaded, ranking
from segtrain.data.loading import val_loader
from segtrain.errors import ConfigError, TrainingError
from segtrain.hardest import HardestImages
from segtrain.memory import memory_for
from segtrain.spectrum import Overlap, Spectrum
from segtrain.task import Batch
from segtrain.trained import Trained

SMALLER_BATCH = "Lower --batch (it changes no number)"


@dataclass
class Looked:
    """What was seen of a split."""

    spectrum: Spectrum
    overlaps: dict[int, Overlap]  # with the checkpoint of another step
    hardest: HardestImages
    images: int = 0


def run(args: argparse.Namespace) -> int:
    """The whole job; returns the exit code."""
    out = args.out or default_folder(args.checkpoint) / args.split
    check_folder(out, overwrite=args.overwrite)
    register_components(args.modules)
    models = loaded(args.checkpoint, distributed.start(args.device), args.weights)
    rank = ranking(models[0])
    ps = tuple(sorted({*args.top_p, *([rank.top_p] if rank.top_p else [])}))
    seen = look(models, rank, ps, args)
    report = tables.Report(args.checkpoint, args.split, models[0], rank, seen.images, seen.spectrum, seen.overlaps)
    with result_folder(out) as folder:
        tables.write(folder, report, seen.hardest.probes(report.shown.threshold))
    if args.json:
        print(json.dumps({**tables.as_json(report), "out": str(out)}))
    else:
        print("\n".join([*tables.told(report), *rank.remarks, "", f"{out}: {', '.join(written(out))}"]))
    return 0


@torch.inference_mode()
def look(models: Sequence[Trained], rank: Ranking, ps: tuple[float, ...], args: argparse.Namespace) -> Looked:
    """One pass over the split. Raises UserError if it has no labels, or if the model gives no numbers."""
    trained = models[0]
    config, task, device = trained.config, trained.task, trained.precision.device
    dataset = first(trained.maker.make(component(config, args.split)), args.limit)
    loader = val_loader(
        dataset,
        trained.prepare,
        batch_size=args.batch or config.data.val_batch_size or config.data.batch_size,
        workers=config.data.workers,
        timeout_s=config.data.timeout,
    )
    seen = Looked(
        Spectrum(task, ps, args.boundary, device),
        {other.step: Overlap(device) for other in models[1:]},
        HardestImages(task, args.panels),
    )
    for batch in watch(loader, len(loader)):
        with memory_for(batch.in_words, device, SMALLER_BATCH):
            add(seen, models, rank, batch.to(device))
    if not seen.spectrum.valid:
        raise ConfigError(f"--split {args.split}: none of the {seen.images:,} samples has a label; nothing is hard")
    return seen


def add(seen: Looked, models: Sequence[Trained], rank: Ranking, batch: Batch) -> None:
    """Look at one batch with all models."""
    logits = forward(models[0], batch)
    losses = rank(logits, batch.target)
    if not bool(losses.hardness.isfinite().all()):
        raise TrainingError(f"the loss of {batch.in_words()} is not finite; is the checkpoint one of a failed run?")
    seen.images += len(batch.ids)
    seen.spectrum.update(losses.hardness, losses.valid, logits, batch.target)
    seen.hardest.update(losses.hardness, losses.valid, logits, batch)
    for other in models[1:]:
        hardness = rank(forward(other, batch), batch.target).hardness
        seen.overlaps[other.step].update(losses.hardness, hardness, losses.valid)


def forward(trained: Trained, batch: Batch) -> Tensor:
    """The logits of a batch in the precision of the run."""
    with trained.precision.autocast():
        logits: Tensor = trained.model(batch.image)
    return logits


def default_folder(checkpoint: Path) -> Path:
    """mining/ in the run that a checkpoint belongs to, or here."""
    if checkpoint.is_dir():
        return checkpoint / "mining"
    return (checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else Path()) / "mining"


def check_folder(out: Path, *, overwrite: bool) -> None:
    """Raise ConfigError unless `out` can be written, and is empty or may be replaced: only our own files ever are."""
    there = written(out) if out.exists() else []
    if there and not overwrite:
        raise ConfigError(f"{out} is not empty; give another --out, or --overwrite to replace what is there")
    strange = [name for name in there if out.is_file() or not tables.is_ours(name)]
    if strange:
        raise ConfigError(f"{out} holds {strange[0]}, which mining has not written; give another --out")
    parent = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"cannot write to {out}: {parent} is no folder that takes files; choose another --out")


@contextmanager
def result_folder(out: Path) -> Iterator[Path]:
    """A folder whose files come into `out` at the end, in place of those there; none, if something goes wrong before.

    Raises ConfigError if they cannot be written.
    """
    there = written(out) if out.exists() else []
    unfinished = out.with_name(f".{out.name}-{os.getpid()}") if there else out
    try:
        with new_folder(unfinished) as folder:
            yield folder
        if there:
            for name in there:
                (out / name).unlink()
            for file in unfinished.iterdir():
                file.rename(out / file.name)
            unfinished.rmdir()
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise ConfigError(f"cannot write to {out}: {error.strerror}; choose another --out") from error


def written(out: Path) -> list[str]:
    """The names in a folder, or that of the file that it is."""
    return sorted(file.name for file in out.iterdir()) if out.is_dir() else [out.name]
