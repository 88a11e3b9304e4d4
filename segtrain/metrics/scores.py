"""Counts on the device, scores on the host.

A meter takes batch after batch without waiting for the device; `total` sums over the ranks and makes the scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.distributed import sum_over_ranks
from segtrain.errors import DataError
from segtrain.metrics.tags import BOUNDARY_TAG
from segtrain.task import Task, predict, two_channels

Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

_CALIBRATION_BINS = 15


class Scores(Protocol):
    """What a meter says about all it has seen, on all ranks."""

    @property
    def confusion(self) -> Counts: ...  # [K, K], rows = label, columns = prediction

    def scalars(self) -> dict[str, float]: ...


class Meter(Protocol):
    """Collects predictions. Every rank calls `total`, also one that has seen nothing."""

    def update(self, logits: Tensor, target: Tensor) -> None: ...

    def total(self) -> Scores: ...


def meter(task: Task, device: torch.device | str = "cpu") -> Meter:
    """The meter for this kind of task."""
    return ConfusionMatrix(task, device) if task.kind == "segmentation" else ClassificationMeter(task, device)


def scores_to_maximise(task: Task) -> list[str]:
    """The names of the scalars of which more is better; what an evaluation can be judged by."""
    if task.kind == "classification":
        return ["val/top1", "val/top5", "val/macc"]
    perfect = np.eye(task.num_classes, dtype=np.int64)
    return [*SegmentationScores(perfect, task.classes).scalars(), BOUNDARY_TAG]


class ConfusionMatrix:
    """Exact int64 counts of (label, prediction) pairs over the pixels that are not ignored."""

    def __init__(self, task: Task, device: torch.device | str = "cpu") -> None:
        self._task = task
        k = task.num_classes
        self._counts = torch.zeros(k * k + 2, dtype=torch.int64, device=device)  # + ignored, + labels out of range

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count logits [B, C, *] (floating point) or predicted class ids [B, *] against class ids [B, *]."""
        prediction = predict(logits) if logits.is_floating_point() else logits
        k, label = self._task.num_classes, target.int()  # int32 halves the time of int64; k * k is far below its limit
        cell = torch.where((label >= 0) & (label < k), label * k + prediction.int(), k * k + 1)
        cell = torch.where(label == self._task.ignore_index, k * k, cell)
        self._counts += histogram(cell.flatten(), len(self._counts))

    def total(self) -> SegmentationScores:
        """The scores over all ranks. Raises DataError if labels were neither a class nor ignored."""
        counts = sum_over_ranks(self._counts).cpu().numpy()
        return SegmentationScores(_square(counts, self._task), self._task.classes)


@dataclass(frozen=True)
class SegmentationScores:
    """IoU and accuracies of a confusion matrix. A class without label and prediction is absent: NaN, in no mean."""

    confusion: Counts  # [K, K], rows = label, columns = prediction
    classes: tuple[str, ...]

    @property
    def labelled(self) -> Counts:
        pixels: Counts = self.confusion.sum(1)
        return pixels

    @property
    def predicted(self) -> Counts:
        pixels: Counts = self.confusion.sum(0)
        return pixels

    @property
    def correct(self) -> Counts:
        return np.diag(self.confusion)

    @property
    def iou(self) -> Values:
        return ratio(self.correct, self.labelled + self.predicted - self.correct)

    @property
    def accuracy(self) -> Values:
        """Share of a class's pixels that are found (recall)."""
        return ratio(self.correct, self.labelled)

    @property
    def precision(self) -> Values:
        return ratio(self.correct, self.predicted)

    def scalars(self) -> dict[str, float]:
        """The means (NaN if nothing was valid), then IoU and accuracy of every class that has them."""
        scalars = {
            "val/miou": mean_of_present(self.iou),
            "val/macc": mean_of_present(self.accuracy),
            "val/aacc": share(self.correct.sum(), self.confusion.sum()),
            "val/fwiou": share(np.nansum(self.labelled * self.iou), self.confusion.sum()),
        }
        for what, values in (("iou", self.iou), ("acc", self.accuracy)):
            named = zip(self.classes, values.tolist(), strict=True)
            scalars |= {f"val/{what}/{name}": value for name, value in named if not np.isnan(value)}
        return scalars


class ClassificationMeter:
    """Counts for top-1, top-5, per-class accuracy, and sums for likelihood and calibration."""

    def __init__(self, task: Task, device: torch.device | str = "cpu") -> None:
        self._task = task
        k = task.num_classes
        self._counts = torch.zeros(k * k + 2, dtype=torch.int64, device=device)
        self._in_top5 = torch.zeros((), dtype=torch.int64, device=device)
        self._nll = torch.zeros((), dtype=torch.float64, device=device)
        # rows: samples, Σ confidence, correct ones; columns: (0, 1/15], (1/15, 2/15], …
        self._calibration = torch.zeros(3, _CALIBRATION_BINS, dtype=torch.float64, device=device)

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count logits [B, C] against class ids [B]."""
        k, label = self._task.num_classes, target.long()
        scores = two_channels(logits.double())
        known = (label >= 0) & (label < k) & (label != self._task.ignore_index)
        safe = torch.where(known, label, 0)[:, None]
        log_probability = F.log_softmax(scores, 1)
        confidence, prediction = log_probability.exp().max(1)
        cell = torch.where(known, safe[:, 0] * k + prediction, k * k + 1)
        self._counts += histogram(torch.where(label == self._task.ignore_index, k * k, cell), len(self._counts))
        in_top5 = (scores.topk(min(5, k), 1).indices == safe).any(1)
        self._in_top5 += (in_top5 & known).sum()
        self._nll -= torch.where(known, log_probability.gather(1, safe)[:, 0], 0.0).sum()
        column = (confidence * _CALIBRATION_BINS).ceil().long().clamp(1, _CALIBRATION_BINS) - 1
        rows = torch.stack([torch.ones_like(confidence), confidence, (prediction == label).double()])
        self._calibration.index_add_(1, column, rows * known)

    def total(self) -> ClassificationScores:
        """The scores over all ranks. Raises DataError if labels were neither a class nor ignored."""
        counts = sum_over_ranks(self._counts).cpu().numpy()
        in_top5, nll = sum_over_ranks(self._in_top5).item(), sum_over_ranks(self._nll).item()
        calibration = sum_over_ranks(self._calibration).cpu().numpy()
        confusion = _square(counts, self._task)
        return ClassificationScores(confusion, self._task.classes, int(in_top5), nll, calibration)


@dataclass(frozen=True)
class ClassificationScores:
    """Accuracies, negative log-likelihood and calibration of a classifier."""

    confusion: Counts  # [K, K], rows = label, columns = prediction
    classes: tuple[str, ...]
    in_top5: int
    nll: float  # summed over samples
    calibration: Values  # [3, bins]: samples, Σ confidence, correct ones

    @property
    def accuracy(self) -> Values:
        """Share of a class's samples that are recognised."""
        return ratio(np.diag(self.confusion), self.confusion.sum(1))

    def scalars(self) -> dict[str, float]:
        """Shares in [0, 1]; NaN if nothing was valid. ECE: Σ over bins |Σ confidence - correct| / samples."""
        samples = self.confusion.sum()
        return {
            "val/top1": share(np.trace(self.confusion), samples),
            "val/top5": share(self.in_top5, samples),
            "val/macc": mean_of_present(self.accuracy),
            "val/nll": share(self.nll, samples),
            "val/ece": share(np.abs(self.calibration[1] - self.calibration[2]).sum(), samples),
        }


def histogram(cell: Tensor, length: int) -> Tensor:
    """How often each of 0..length-1 occurs in `cell` [N], int64."""
    if cell.device.type == "cpu":
        return torch.bincount(cell, minlength=length)
    cell = cell.long()  # on a GPU bincount would wait for the largest value
    return torch.zeros(length, dtype=torch.int64, device=cell.device).scatter_add_(0, cell, torch.ones_like(cell))


def _square(counts: Counts, task: Task) -> Counts:
    if counts[-1]:
        raise DataError(
            f"{counts[-1]:,} labels are neither a class (0..{task.num_classes - 1}) nor ignored ({task.ignore_index}); "
            "find them with --check-data"
        )
    return counts[:-2].reshape(task.num_classes, task.num_classes)


def ratio(part: Counts, whole: Counts) -> Values:
    """part / whole of each entry; NaN where there is no whole."""
    shares: Values = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return shares


def mean_of_present(values: Values) -> float:
    """The mean over the entries that are not NaN; NaN if all are."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def share(part: float, whole: float) -> float:
    """part / whole; NaN where there is no whole."""
    return float(part / whole) if whole else float("nan")
