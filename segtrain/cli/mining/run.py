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

from segtrain import distributed
from segtrain.build import first, register_components
from segtrain.cli.data.common import component, watch
from segtrain.cli.folders import move_files, new_folder, run_of, to_be_written
from segtrain.cli.mining import tables
from segtrain.cli.mining.models import Ranking, loaded, ranking
from segtrain.data.loading import val_loader
from segtrain.errors import ConfigError, TrainingError
from segtrain.memory import memory_for
from segtrain.metrics.evaluation import Probe
from segtrain.metrics.spectrum import Overlap, Spectrum
from segtrain.metrics.suspects import SelfConfidence, Suspects
from segtrain.metrics.worst import LargestLoss
from segtrain.observers import cards, pictures
from segtrain.observers.canvas import Picture
from segtrain.observers.suspects import sheets
from segtrain.task import Batch, probabilities
from segtrain.trained import Trained
from segtrain.writing import replace

SMALLER_BATCH = "Lower --batch (it changes no number)"


@dataclass
class Looked:
    """What was seen of a split."""

    spectrum: Spectrum
    overlaps: dict[int, Overlap]  # with the checkpoint of another step
    hardest: LargestLoss
    confidence: SelfConfidence
    images: int = 0


def run(args: argparse.Namespace) -> int:
    """The whole job; returns the exit code."""
    if distributed.launched():
        raise ConfigError("mining looks with one process; start it without torchrun")
    out = args.out or run_of(args.checkpoint) / "mining" / args.split
    check_folder(out, overwrite=args.overwrite)
    register_components(args.modules)
    models = loaded(args.checkpoint, distributed.start(args.device), args.weights)
    rank = ranking(models[0])
    ps = tuple(sorted({*args.top_p, *([rank.top_p] if rank.top_p else [])}))
    seen = look(models, rank, ps, args)
    suspects = suspect(models, rank, seen.confidence, args).ranked()
    report = tables.Report(
        args.checkpoint, args.split, models[0], rank, seen.images, seen.spectrum, seen.overlaps, suspects
    )
    with result_folder(out) as folder:
        files = tables.files(report) | pictures_of(report, seen.hardest.mined(report.shown.threshold))
        for name, content in files.items():
            replace(folder / name, content)
    remarks = [*rank.remarks, *about_suspects(report, asked=args.suspects > 0)]
    if args.json:
        print(json.dumps({**tables.as_json(report), "remarks": remarks, "out": str(out)}))
    else:
        print("\n".join([*tables.told(report), *remarks, "", f"{out}: {', '.join(written(out))}"]))
    return 0


@torch.inference_mode()
def look(models: Sequence[Trained], rank: Ranking, ps: tuple[float, ...], args: argparse.Namespace) -> Looked:
    """One pass over the split. Raises UserError if it has no labels, or if the model gives no numbers."""
    task, device = models[0].task, models[0].precision.device
    seen = Looked(
        Spectrum(task, ps, args.boundary, device),
        {other.step: Overlap(device) for other in models[1:]},
        LargestLoss(task, args.panels),
        SelfConfidence(task, device),
    )
    for batch in batches(models[0], args):
        add(seen, models, rank, batch)
    if not seen.spectrum.valid:
        raise ConfigError(f"--split {args.split}: none of the {seen.images:,} samples has a label; nothing is hard")
    return seen


@torch.inference_mode()
def suspect(models: Sequence[Trained], rank: Ranking, usual: SelfConfidence, args: argparse.Namespace) -> Suspects:
    """A second pass that knows how sure the model usually is of each class: the labels that are probably wrong."""
    found = Suspects(models[0].task, args.suspects, usual.means())
    for batch in batches(models[0], args) if args.suspects else ():
        logits = models[0].logits(batch.image)
        valid = rank(logits, batch.target).valid
        mirrored = probabilities(models[0].logits(batch.image.flip(3)))
        views = [probabilities(logits), mirrored.flip(3) if mirrored.dim() == 4 else mirrored]
        found.update(views, [probabilities(other.logits(batch.image)) for other in models[1:]], batch, valid)
    return found


def batches(trained: Trained, args: argparse.Namespace) -> Iterator[Batch]:
    """The split on the device, prepared as for a validation."""
    config, device = trained.config, trained.precision.device
    dataset = first(trained.maker.make(component(config, args.split)), args.limit)
    loader = val_loader(
        dataset,
        trained.prepare,
        batch_size=args.batch or config.data.val_batch_size or config.data.batch_size,
        workers=config.data.workers,
        timeout_s=config.data.timeout,
    )
    for batch in watch(loader, len(loader)):
        with memory_for(batch.in_words, device, SMALLER_BATCH):
            yield batch.to(device)


def add(seen: Looked, models: Sequence[Trained], rank: Ranking, batch: Batch) -> None:
    """Look at one batch with all models."""
    logits = models[0].logits(batch.image)
    losses = rank(logits, batch.target)
    if not bool(losses.hardness.isfinite().all()):
        raise TrainingError(f"the loss of {batch.in_words()} is not finite; is the checkpoint one of a failed run?")
    seen.images += len(batch.ids)
    seen.spectrum.update(losses.hardness, losses.valid, logits, batch.target)
    seen.hardest.update(losses.hardness, losses.valid, logits, batch)
    seen.confidence.update(probabilities(logits), batch.target, losses.valid)
    for other in models[1:]:
        hardness = rank(other.logits(batch.image), batch.target).hardness
        seen.overlaps[other.step].update(losses.hardness, hardness, losses.valid)


def about_suspects(report: tables.Report, *, asked: bool) -> list[str]:
    """What has to be known to read them."""
    if report.suspects and report.trained.prepare:
        return ["boxes are in pixels of the images as data.val_prepare makes them, not of the files"]
    if asked and not report.suspects:
        return ["no label is suspect: the model contradicts none more than it usually errs"]
    return []


def pictures_of(report: tables.Report, probes: Sequence[Probe]) -> dict[str, bytes]:
    """The hardest images and the suspects."""
    task, drawn = report.trained.task, dict[str, Picture]()
    if probes and task.kind == "segmentation":
        drawn |= {"hardest": pictures.panels(probes, task), "hardest-mined": pictures.overlays(probes, task)}
    elif probes:
        drawn["hardest"] = cards.answers(probes, task, "The images with the largest loss")
    drawn |= {f"suspects-{number}": one for number, one in enumerate(sheets(report.suspects, task), start=1)}
    return {f"{name}.jpg": pictures.jpeg(picture) for name, picture in drawn.items()}


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
    with to_be_written(out):
        with new_folder(unfinished) as folder:
            yield folder
        if there:
            for name in there:
                (out / name).unlink()
            move_files(unfinished, out)


def written(out: Path) -> list[str]:
    """The names in a folder, or that of the file that it is."""
    return sorted(file.name for file in out.iterdir()) if out.is_dir() else [out.name]
