"""The files of a run that programs read: metrics.csv, steps.jsonl, and the pictures of the latest evaluation."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segtrain.metrics.evaluation import Evaluation
from segtrain.metrics.tags import BOUNDARY_TAG
from segtrain.observers import pictures
from segtrain.observers.disk import Forgiving
from segtrain.observers.observer import SampleLoss
from segtrain.task import Task
from segtrain.writing import append, replace

_MEANS = {
    "segmentation": ("val/miou", "val/macc", "val/aacc", "val/fwiou", BOUNDARY_TAG, "val/loss"),
    "classification": ("val/top1", "val/top5", "val/macc", "val/nll", "val/ece", "val/loss"),
}

_HARDEST = 1000  # rows of hardest.csv


class Files:
    """Writes metrics.csv (one row per evaluation), steps.jsonl (one line per log interval) and val/*.jpg.

    In classification also hardest.csv: the training samples with the largest mean loss since the process began.
    A run that goes on from `start_step` finished steps keeps what was written up to there; the rest is written again.
    """

    def __init__(self, folder: Path, task: Task, *, start_step: int = 0) -> None:
        self._csv, self._steps, self._pictures = folder / "metrics.csv", folder / "steps.jsonl", folder / "val"
        self._samples, self._hardest = folder / "hardest.csv", dict[str, _Sights]()
        self._forgiving = {path: Forgiving(path) for path in (self._csv, self._steps, self._pictures, self._samples)}
        self._columns, self._rows = _header(task), list[dict[str, str]]()
        with self._forgiving[self._csv]():
            if start_step > 0 and self._csv.exists():
                self._keep_rows(start_step)
            self._write_csv()
        with self._forgiving[self._steps]():
            _cut_lines(self._steps, start_step)

    def on_step(self, step: int, scalars: Mapping[str, float]) -> None:
        # JSON has no NaN and no infinity
        finite = {tag: float(value) if math.isfinite(value) else None for tag, value in scalars.items()}
        with self._forgiving[self._steps]():
            append(self._steps, (json.dumps({"step": step, **finite}) + "\n").encode())

    def on_samples(self, step: int, samples: Sequence[SampleLoss]) -> None:
        for one in samples:
            self._hardest[one.id] = self._hardest.get(one.id, _Sights()).and_(one)

    def on_evaluation(self, step: int, report: Evaluation) -> None:
        self._columns += [tag for tag in report.scalars if tag not in self._columns]
        self._rows.append({"step": str(step), **{tag: repr(float(value)) for tag, value in report.scalars.items()}})
        with self._forgiving[self._csv]():
            self._write_csv()
        if self._hardest:
            with self._forgiving[self._samples]():
                replace(self._samples, _hardest(self._hardest, report.classes).encode())
        with self._forgiving[self._pictures]():
            for tag, picture in pictures.jpegs_of_evaluation(report).items():
                name = tag.removeprefix("val/").replace("/", "-")
                replace(self._pictures / f"{name}.jpg", picture.data)

    def close(self) -> None:
        """Nothing is open."""

    def _keep_rows(self, last_step: int) -> None:
        try:
            with open(self._csv, encoding="utf-8", newline="") as file:
                table = csv.DictReader(file, restval="")
                rows = [row for row in table if int(row["step"]) <= last_step]
                columns = list(table.fieldnames or ())
        except (
            OSError,
            KeyError,
            ValueError,
            csv.Error,
        ) as error:  # a spreadsheet may have saved it in a form of its own
            aside = self._csv.with_name("metrics.unreadable.csv")
            self._csv.replace(aside)
            warnings.warn(
                f"{self._csv} is not as it was written ({error!r}); it is now {aside.name}, and a new one is begun",
                RuntimeWarning,
                stacklevel=3,
            )
            return
        self._columns = columns
        self._rows = [{column: row[column] for column in columns} for row in rows]

    def _write_csv(self) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(self._rows)
        replace(self._csv, text.getvalue().encode())


class _Sights(NamedTuple):
    """What is known of a training sample from having seen it some times."""

    seen: int = 0
    mined: float = 0.0
    loss: float = 0.0
    last: SampleLoss = SampleLoss("", 0, 0, 0.0, 0.0)

    def and_(self, one: SampleLoss) -> _Sights:
        return _Sights(self.seen + 1, self.mined + one.share, self.loss + one.loss, one)


def _hardest(sights: Mapping[str, _Sights], classes: Sequence[str]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "label", "last_prediction", "seen", "mined", "mean_loss", "last_loss"])
    for of in sorted(sights.values(), key=lambda of: -of.loss / of.seen)[:_HARDEST]:
        last = of.last
        numbers = [f"{value:.4g}" for value in (of.mined / of.seen, of.loss / of.seen, last.loss)]
        table.writerow([last.id, classes[last.label], classes[last.prediction], of.seen, *numbers])
    return text.getvalue()


def _header(task: Task) -> list[str]:
    kinds = ("iou", "acc") if task.kind == "segmentation" else ()
    return ["step", *_MEANS[task.kind], *(f"val/{kind}/{name}" for kind in kinds for name in task.classes)]


def _cut_lines(path: Path, last_step: int) -> None:
    """Drop what follows the last line of `last_step`, and a line that a crash of the machine left unfinished."""
    if not path.exists():
        return
    end = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                keep = last_step > 0 and line.endswith(b"\n") and json.loads(line)["step"] <= last_step
            except (ValueError, KeyError, TypeError):
                keep = False
            if not keep:
                break
            end += len(line)
    os.truncate(path, end)
