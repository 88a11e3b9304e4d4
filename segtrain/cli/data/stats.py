"""`segtrain data stats`: how often classes occur, the weights that would balance them, and what images are like."""

from __future__ import annotations

import argparse
import json
from typing import Any

from segtrain.cli.data import SHOWN
from segtrain.cli.data.common import SPLITS, component, opened, sizes, survey, workers
from segtrain.cli.tables import percent, table
from segtrain.data.paths import some
from segtrain.data.survey import Survey
from segtrain.errors import DataError
from segtrain.losses.weights import Method, from_labels
from segtrain.task import Kind

METHODS: tuple[Method, ...] = ("inverse_frequency", "median_frequency", "effective_number")


def run(args: argparse.Namespace) -> int:
    """Count, print, return the exit code."""
    config, _, maker = opened(args.config, args)
    surveys = dict[str, Survey]()
    for split in SPLITS:
        dataset = maker.make(component(config, split))
        surveys[split] = survey(dataset, split, None if args.all else SHOWN, workers(args))
        if not surveys[split].usable:
            first = surveys[split].failures[0].errors[0]
            raise DataError(
                f"data.{split}: none of the {surveys[split].read:,} samples can be used, the first: {first}"
            )
    weights = {method: _weights(method, surveys["train"]) for method in METHODS}
    if args.json:
        print(json.dumps(_as_json(surveys, weights), indent=1))
        return 0
    for split, seen in surveys.items():
        print("\n".join(_told(split, seen, weights if split == "train" else {}, config.task)), end="\n\n")
    print(_advice(weights, surveys["train"]))
    return 0


def _weights(method: Method, seen: Survey) -> list[float]:
    return from_labels(method, seen.pixels.tolist(), seen.seen.tolist())


def _told(split: str, seen: Survey, weights: dict[Method, list[float]], kind: Kind) -> list[str]:
    how_many = "" if seen.read == seen.listed else f", {seen.read:,} read (--all reads every one)"
    unusable = f", {len(seen.failures):,} not usable (see check)" if seen.failures else ""
    labelled, ignored = int(seen.pixels.sum()), seen.ignored
    lines = [f"{split:7}{seen.listed:,} samples{how_many}{unusable} · {sizes(seen)}"]
    if kind == "segmentation":
        lines.append(f"       {labelled + ignored:,} pixels, {percent(ignored, labelled + ignored)} of them ignored")
    head = ["class", "of labelled pixels", "in images"] if kind == "segmentation" else ["class", "images", "share"]
    rows = [[*head, *weights]]
    left_out = 0
    for i, name in enumerate(seen.names):
        if not seen.pixels[i] and len(seen.names) > 40:
            left_out += 1
            continue
        pixels, images = int(seen.pixels[i]), int(seen.images_with[i])
        shares = [percent(pixels, labelled), percent(images, seen.usable)]
        numbers = shares if kind == "segmentation" else [f"{pixels:,}", shares[0]]
        rows.append([name, *numbers, *(f"{by_class[i]:.4g}" for by_class in weights.values())])
    lines += ["       " + row for row in table(rows, "<" + ">" * (len(rows[0]) - 1))]
    if left_out:
        lines.append(f"       left out because they do not occur: {left_out} of the classes")
    mean, deviation = ([f"{value:.1f}" for value in three] for three in (seen.mean, seen.deviation))
    lines.append(f"       RGB mean {', '.join(mean)} · standard deviation {', '.join(deviation)} (of 255)")
    return lines


def _advice(weights: dict[Method, list[float]], train: Survey) -> str:
    absent = [name for name, count in zip(train.names, train.pixels, strict=True) if not count]
    note = f" (1 for classes that do not occur: {some(absent)})" if absent else ""
    methods = ", ".join(weights)
    alike = (
        ""
        if max(weights["effective_number"]) > 1.01
        else (" (effective_number says 1: more than some 10,000 pixels tell it nothing new)")
    )
    return (
        f"The weights are of the training labels{note}. A criterion takes them by name, class_weights: one of "
        f"{methods}{alike}, and counts all labels anew at the start; auto is median_frequency. Mining and weights both "
        "favour rare classes: try mining alone first."
    )


def _as_json(surveys: dict[str, Survey], weights: dict[Method, list[float]]) -> dict[str, Any]:
    return {
        "splits": {
            split: {
                "samples": seen.listed,
                "read": seen.read,
                "unusable": len(seen.failures),
                "sizes": {f"{width}x{height}": count for (width, height), count in seen.sizes.items()},
                "pixels": int(seen.pixels.sum()),
                "ignored": seen.ignored,
                "classes": {
                    name: {"pixels": pixels, "images": images}
                    for name, pixels, images in zip(
                        seen.names, seen.pixels.tolist(), seen.images_with.tolist(), strict=True
                    )
                },
                "mean": seen.mean,
                "std": seen.deviation,
            }
            for split, seen in surveys.items()
        },
        "class_weights": weights,
    }
