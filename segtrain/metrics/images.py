"""Scores of single images in an evaluation."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segtrain.distributed import of_all_ranks
from segtrain.metrics.scores import Counts, histogram
from segtrain.task import Batch, Task, probabilities


class ImageScore(NamedTuple):
    """How well the labels of one image were met. NaN where it has none."""

    id: str
    miou: float  # mean IoU of the classes that its label has
    accuracy: float  # share of its valid pixels that are right
    pixels: int  # valid ones
    worst: str  # the class with the lowest IoU
    worst_iou: float


class ImageScores:
    """Scores every image of a segmentation. Waits for the device."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._scores: list[ImageScore] = []

    def update(self, prediction: Tensor, batch: Batch) -> None:
        """Look at the predicted class ids [B, H, W] of a batch."""
        counts = torch.stack(counts_of_images(prediction, batch.target, self._task), 1).cpu().numpy()
        self._scores += map(self._score, batch.ids, counts)

    def total(self) -> list[ImageScore]:
        """Of all ranks, the lowest first and those without labels last. Every rank takes part."""
        scores = [score for some in of_all_ranks(self._scores) for score in some]
        return sorted(scores, key=lambda score: (math.isnan(score.miou), score.miou, score.id))

    def _score(self, name: str, counts: Counts) -> ImageScore:
        labelled, predicted, correct = counts
        if not labelled.any():
            return ImageScore(name, math.nan, math.nan, 0, "", math.nan)
        present = np.flatnonzero(labelled)
        iou = correct[present] / (labelled + predicted - correct)[present]
        lowest = int(iou.argmin())
        worst, share = self._task.classes[present[lowest]], float(correct.sum() / labelled.sum())
        return ImageScore(name, float(iou.mean()), share, int(labelled.sum()), worst, float(iou[lowest]))


def counts_of_images(prediction: Tensor, target: Tensor, task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Of each image and class the valid pixels with this label, with this prediction, and with both; int64 [B, K]."""
    k, label = task.num_classes, target.long()
    valid = (label >= 0) & (label < k) & (label != task.ignore_index)
    first = k * torch.arange(len(label), device=label.device).view(-1, 1, 1)
    outside = k * len(label)

    def counts(ids: Tensor, which: Tensor) -> Tensor:
        return histogram(torch.where(which, first + ids, outside).flatten(), outside + 1)[:-1].view(-1, k)

    return counts(label, valid), counts(prediction.long(), valid), counts(label, valid & (prediction == label))


def iou_of_images(prediction: Tensor, target: Tensor, task: Task) -> Tensor:
    """Of each image [B], float64: the mean IoU over the classes in its label; infinity where it has none."""
    labelled, predicted, right = (counts.double() for counts in counts_of_images(prediction, target, task))
    present = labelled > 0
    ious = torch.where(present, right / (labelled + predicted - right), 0.0)
    return torch.where(present.any(1), ious.sum(1) / present.sum(1), torch.inf)


class Answer(NamedTuple):
    """What a classifier said of one image; the label is -1 where it has none."""

    id: str
    label: int
    prediction: int
    confidence: float  # probability of the prediction


class Answers:
    """Collects what a classifier says of each image. Waits for the device."""

    def __init__(self, task: Task) -> None:
        self._ignored = task.ignore_index
        self._given: list[Answer] = []

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Look at logits [B, C] of a batch."""
        best = probabilities(logits).max(1)
        labels = torch.where(batch.target == self._ignored, -1, batch.target).tolist()
        self._given += map(Answer, batch.ids, labels, best.indices.tolist(), best.values.tolist())

    def total(self) -> list[Answer]:
        """Of all ranks: wrong ones first, the most confident at the top. Every rank takes part."""
        answers = [answer for given in of_all_ranks(self._given) for answer in given]
        return sorted(answers, key=lambda one: (one.label in (-1, one.prediction), -one.confidence, one.id))
