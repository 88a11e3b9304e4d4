"""An own observer: a metric of one's own, and every number of the run handed to another tracker."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segtrain.metrics.evaluation import Evaluation
from segtrain.observers.observer import SampleLoss
from segtrain.registry import OBSERVERS
from segtrain.task import Task


@OBSERVERS.register("own_tracker")
class OwnTracker:
    """Adds the mean Dice score and writes all to tracker.csv, where a tracker's own call would stand.

    W&B: `wandb.init(dir=run)`, then `wandb.log(numbers, step=step)`. MLflow: `mlflow.start_run()`, then
    `mlflow.log_metrics(numbers, step=step)`.
    """

    def __init__(self, run: Path, task: Task, *, every_step: bool = True) -> None:
        self.file = open(run / "tracker.csv", "a", newline="", encoding="utf-8")  # noqa: SIM115 (close() does)
        self.every_step = every_step

    def on_step(self, step: int, scalars: Mapping[str, float]) -> None:
        """Once per log interval: train/loss, optim/lr/…, mining/…, perf/…"""
        if self.every_step:
            self.log(step, scalars)

    def on_samples(self, step: int, samples: Sequence[SampleLoss]) -> None:
        """Of a classifier: what was trained on."""

    def on_evaluation(self, step: int, report: Evaluation) -> None:
        """Scores by tag, and the counts that they come from: rows are labels, columns predictions."""
        counts = np.asarray(report.confusion, dtype=float)
        dice = 2 * np.diag(counts) / np.maximum(counts.sum(0) + counts.sum(1), 1)
        self.log(step, {**report.scalars, "val/mean_dice": float(dice.mean())})

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """To the tracker."""
        csv.writer(self.file).writerows((step, tag, number) for tag, number in numbers.items())

    def close(self) -> None:
        """The run is over."""
        self.file.close()
