"""The report of `segtrain val`: told, as JSON, and as files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.cli.tables import csv_bytes
from segtrain.metrics.evaluation import Evaluation
from segtrain.metrics.images import Answer, ImageScore
from segtrain.metrics.scores import SegmentationScores, Values, mean_of_present
from segtrain.observers import pictures
from segtrain.run import environment

_TOLD = 5  # pairs and images on the terminal


@dataclass(frozen=True)
class Report:
    """What was found, of which weights, looked at in which way."""

    evaluation: Evaluation
    checkpoint: Path
    step: int
    weights: str
    split: str
    samples: int
    way: str
    boundary: dict[int, Values]  # width → boundary IoU of each class [K]
    images: Sequence[ImageScore]
    answers: Sequence[Answer]
    remarks: tuple[str, ...] = ()


def told(report: Report, out: Path) -> list[str]:
    """Lines for a terminal."""
    result = report.evaluation
    unit = "images" if report.samples != 1 else "image"
    head = f"{report.checkpoint} · step {report.step} · {report.weights} weights"
    head += f" · data.{report.split}, {report.samples:,} {unit}"
    lines = [f"{head} · {report.way}", result.table()]
    loss = result.scalars["val/loss"]
    lines.append(f"loss {loss:.4f}" if math.isfinite(loss) else "loss - (nothing was valid)")
    if report.boundary:
        widths = [f"{width} px {mean_of_present(values):.4f}" for width, values in report.boundary.items()]
        lines.append(f"boundary IoU within  {'  '.join(widths)}")
        lines += [f"most confused  {pair}" for pair in result.confused(_TOLD)]
        lines += [
            f"worst image  {one.id}  mIoU {one.miou:.4f}, {one.worst} {one.worst_iou:.4f}"
            for one in report.images[: min(_TOLD, len(result.wrong))]
        ]
    return [*lines, *report.remarks, f"written to {out}"]


def as_json(report: Report) -> dict[str, Any]:
    """The scores without those of single images; null where there is none."""
    result = report.evaluation
    return {
        "checkpoint": str(report.checkpoint),
        "step": report.step,
        "weights": report.weights,
        "split": report.split,
        "samples": report.samples,
        "way": report.way,
        "scores": {tag.removeprefix("val/"): _number(value) for tag, value in result.scalars.items()},
        "classes": [dict(zip(_columns(report), row, strict=True)) for row in _classes(report)],
        "boundary_iou": {str(width): _number(mean_of_present(values)) for width, values in report.boundary.items()},
        "confused": [_pair(report, *pair) for pair in _pairs(report)[:20]],
        "worst": [_plain(one._asdict()) for one in report.images[: len(result.wrong)]],
        "remarks": list(report.remarks),
    }


def write(folder: Path, report: Report) -> None:
    """classes.csv, images.csv, confusion.csv, confused.csv, scores.json and pictures."""
    result, names = report.evaluation, list(report.evaluation.classes)
    _csv(folder / "classes.csv", _columns(report), _classes(report))
    rows = [[name, *row] for name, row in zip(names, result.confusion.tolist(), strict=True)]
    _csv(folder / "confusion.csv", ["label \\ prediction", *names], rows)
    pairs = [list(_pair(report, *pair).values()) for pair in _pairs(report)]
    _csv(folder / "confused.csv", ["label", "prediction", "count", "share_of_label"], pairs)
    if result.task.kind == "segmentation":
        columns = ["image", "miou", "accuracy", "pixels", "worst_class", "worst_iou"]
        _csv(folder / "images.csv", columns, [list(_plain(one._asdict()).values()) for one in report.images])
    else:
        answers = [
            [one.id, names[one.label] if one.label >= 0 else "", names[one.prediction], f"{one.confidence:.6f}"]
            for one in report.answers
        ]
        _csv(folder / "images.csv", ["image", "label", "prediction", "confidence"], answers)
    for tag, picture in pictures.of_evaluation(result).items():
        (folder / f"{tag.removeprefix('val/').replace('/', '-')}.jpg").write_bytes(pictures.jpeg(picture))
    about = {**as_json(report), "environment": environment()}
    (folder / "scores.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _columns(report: Report) -> list[str]:
    iou = ["iou"] if report.evaluation.task.kind == "segmentation" else []
    unit = "pixels" if iou else "images"
    return ["class", *iou, "accuracy", "precision", unit, *(f"boundary_iou_{width}px" for width in report.boundary)]


def _classes(report: Report) -> list[list[Any]]:
    scores = SegmentationScores(report.evaluation.confusion, report.evaluation.classes)
    iou = [scores.iou] if report.evaluation.task.kind == "segmentation" else []
    columns = [*iou, scores.accuracy, scores.precision, scores.labelled, *report.boundary.values()]
    numbers = zip(*(column.tolist() for column in columns), strict=True)
    return [[name, *map(_number, row)] for name, row in zip(scores.classes, numbers, strict=True)]


def _pairs(report: Report) -> list[tuple[int, int]]:
    """Of all pairs that were confused, label and prediction, the most frequent first."""
    wrong = report.evaluation.confusion * (1 - np.eye(len(report.evaluation.classes), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
    rows, columns = np.unravel_index(order, wrong.shape)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _pair(report: Report, label: int, prediction: int) -> dict[str, Any]:
    confusion, names = report.evaluation.confusion, report.evaluation.classes
    count = int(confusion[label, prediction])
    share = round(count / int(confusion[label].sum()), 6)
    return {"label": names[label], "prediction": names[prediction], "count": count, "share_of_label": share}


def _plain(entries: dict[str, Any]) -> dict[str, Any]:
    return {key: _number(value) for key, value in entries.items()}


def _number(value: Any) -> Any:
    """JSON has no NaN; six digits are enough for a share."""
    if not isinstance(value, float):
        return value
    return round(value, 6) if math.isfinite(value) else None


def _csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    path.write_bytes(csv_bytes([columns, *rows]))
