"""Does `tools/mining.py` find wrong labels? Spoil a known 2 % of the label regions, train briefly, look for them.

    python benchmarks/suspects.py scenes
    SEGTRAIN_DATA=… python benchmarks/suspects.py camvid

A suspect is right when more than half of its pixels have a label that was spoiled; that mistake then counts as found.
Both splits are spoiled: the model has been trained on the wrong labels of the one, and never saw those of the other.
The same suspects are also ranked in simpler ways. CamVid's own mistakes count as wrong suspects here.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.corrupted import Corrupted, Mistake
from segtrain.build import register_components
from segtrain.cli.mining import parser
from segtrain.cli.mining.models import loaded, ranking
from segtrain.cli.mining.run import look, suspect
from segtrain.cli.train import main as train
from segtrain.metrics.suspects import Suspect

CONFIGS = Path(__file__).parents[1] / "configs"
COMMON = ["log.pictures=0", "data.workers=0", "checkpoint.every=25%", "checkpoint.keep_last=4", "validate.every=50%"]
JOBS = {
    "scenes": [
        "data.train={name: corrupted, of: {name: scenes, split: train, length: 640}}",
        "data.val={name: corrupted, of: {name: scenes, split: val, length: 160}}",
        "train.steps=400",
    ],
    "camvid": [
        "data.train={name: corrupted, of: {name: camvid, split: train}, size: [144,192]}",
        "data.val={name: corrupted, of: {name: camvid, split: val}, size: [144,192]}",
        "data.augment.0={name: RandomScaleCrop, size: [128,160], scale: [0.75,1.5]}",
        "data.batch_size=6",
        "train.epochs=null",
        "train.steps=500",
        "criterion={name: cross_entropy}",
    ],
}
BASES = {"scenes": "ce.yaml", "camvid": "camvid.yaml"}
RANKINGS: dict[str, Callable[[Suspect], float]] = {
    "score": lambda one: one.score,
    "score, only where all agree": lambda one: one.score * (one.agreement > 0.95),
    "difference of the probabilities × √area": lambda one: (one.confidence - one.label_probability) * one.area**0.5,
    "difference of the probabilities": lambda one: one.confidence - one.label_probability,
    "area": lambda one: one.area,
}


class Spoiled(NamedTuple):
    """The mistakes of all images, and for each suspect the one that it has found."""

    mistakes: list[Mistake]
    regions: int
    found: dict[int, int]  # suspect (by identity) → number of the mistake


def spoiled(dataset: Corrupted, suspects: Sequence[Suspect], images: int) -> Spoiled:
    by_image: dict[str, list[Suspect]] = {}
    for one in suspects:
        by_image.setdefault(one.image, []).append(one)
    mistakes, regions, found = list[Mistake](), 0, dict[int, int]()
    for index in range(images):
        truth = dataset.truth(index)
        for one in by_image.get(dataset.path(index), []):
            left, top, right, bottom = one.box
            numbers = truth.where[top:bottom, left:right][one.region]
            if (numbers > 0).mean() > 0.5:
                found[id(one)] = len(mistakes) + int(np.bincount(numbers[numbers > 0]).argmax()) - 1
        mistakes += truth.mistakes
        regions += truth.regions
    return Spoiled(mistakes, regions, found)


def measure(run: Path, split: str, device: str, limit: int | None = None) -> tuple[list[Suspect], Spoiled]:
    """All suspects among the images of a split, by score, and what they have found."""
    args = parser().parse_args(["--checkpoint", str(run), "--split", split, "--suspects", "100000", "--panels", "0"])
    args.limit = limit
    models = loaded(run, torch.device(device), "auto")
    rank = ranking(models[0])
    seen = look(models, rank, (0.25,), args)
    suspects = suspect(models, rank, seen.confidence, args).ranked()
    config = models[0].config
    dataset = models[0].maker.make(config.data.train if split == "train" else config.data.val)
    return suspects, spoiled(dataset, suspects, seen.images)


def table(suspects: Sequence[Suspect], truth: Spoiled) -> list[str]:
    counts = [20, 50, 100, 200]
    lines = [f"| ranked by | {' | '.join(f'first {count}' for count in counts)} |", "|---|" + "---|" * len(counts)]
    for name, key in RANKINGS.items():
        cells = []
        for count in counts:
            first = sorted(suspects, key=key, reverse=True)[:count]
            hits = [truth.found[id(one)] for one in first if id(one) in truth.found]
            cells.append(f"{len(hits) / len(first):.2f} / {len(set(hits)) / len(truth.mistakes):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def by_kind(suspects: Sequence[Suspect], truth: Spoiled, count: int) -> str:
    found = {truth.found[id(one)] for one in suspects[:count] if id(one) in truth.found}
    told = []
    for kind in ("swapped", "deleted", "shifted"):
        numbers = [number for number, mistake in enumerate(truth.mistakes) if mistake.kind == kind]
        middle = statistics.median([truth.mistakes[number].pixels for number in numbers] or [0])
        told.append(f"{kind} {len(found & set(numbers))} of {len(numbers)} (median {middle:.0f} px)")
    return ", ".join(told)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", choices=sorted(JOBS))
    p.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the training")
    p.add_argument("--run", type=Path, help="where the run goes, or lies already (runs/suspects/DATA)")
    p.add_argument("--limit", type=int, metavar="N", help="look at the first N images of each split only")
    p.add_argument("--device", default="cpu")
    args = p.parse_args()
    register_components(["benchmarks.corrupted"])
    run = args.run or Path("runs/suspects") / args.data
    if not run.exists():
        flags = ["--import", "benchmarks.corrupted", "--config", str(CONFIGS / BASES[args.data]), "--run-dir", str(run)]
        code = train([*flags, "--device", args.device, *COMMON, *JOBS[args.data], *args.overrides])
        if code:
            raise SystemExit(code)
    for split in ("train", "val"):
        suspects, truth = measure(run, split, args.device, args.limit)
        print(
            f"\n{split}: {len(truth.mistakes)} of {truth.regions:,} label regions spoiled, {len(suspects):,} suspects"
        )
        print("precision of the first suspects / share of the mistakes found by them")
        print("\n".join(table(suspects, truth)))
        print(f"found by the first 100: {by_kind(suspects, truth, 100)}")


if __name__ == "__main__":
    main()
