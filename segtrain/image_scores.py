"""Scores of single images in an evaluation, and the images that come off worst."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segtrain.distributed import of_all_ranks
from segtrain.metrics import Probe, histogram
from segtrain.task import Batch, Task, predict, probabilities


class ImageScore(NamedTuple):
    """How well the labels of one image were met. NaN where it has none."""

    id: str
    miou: float  # mean IoU of the classes that its label has
    accuracy: float  # share of its valid pixels that are right
    pixels: int  # valid ones
    worst: str  # the class with the lowest IoU
    worst_iou: float


class ImageScores:
    """Scores every image of a segmentation and keeps the `keep` with the lowest mIoU. Waits for the device."""

    def __init__(self, task: Task, keep: int) -> None:
        self._task, self._keep = task, keep
        self._scores: list[ImageScore] = []
        self._worst: list[tuple[ImageScore, Probe]] = []

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Look at logits [B, C, H, W] of a batch."""
        prediction = predict(logits)
        for index, name in enumerate(batch.ids):
            score = self._score(name, prediction[index], batch.target[index])
            self._scores.append(score)
            if not math.isnan(score.miou) and (len(self._worst) < self._keep or score.miou < self._worst[-1][0].miou):
                self._worst.append((score, _probe(batch, prediction, index)))
                self._worst = _lowest(self._worst, self._keep)

    def total(self) -> list[ImageScore]:
        """Of all ranks, the lowest first and those without labels last. Every rank takes part."""
        scores = [score for some in of_all_ranks(self._scores) for score in some]
        return sorted(scores, key=lambda score: (math.isnan(score.miou), score.miou, score.id))

    def worst(self) -> tuple[Probe, ...]:
        """The worst of all ranks, the lowest first. Every rank takes part."""
        return tuple(
            probe for _, probe in _lowest([one for some in of_all_ranks(self._worst) for one in some], self._keep)
        )

    def _score(self, name: str, prediction: Tensor, target: Tensor) -> ImageScore:
        k, label = self._task.num_classes, target.long()
        valid = (label != self._task.ignore_index) & (label >= 0) & (label < k)
        labelled, predicted, correct = (
            histogram(torch.where(mask, ids, k).flatten(), k + 1)[:-1].cpu().numpy()
            for ids, mask in ((label, valid), (prediction, valid), (label, valid & (label == prediction)))
        )
        if not labelled.any():
            return ImageScore(name, math.nan, math.nan, 0, "", math.nan)
        present = np.flatnonzero(labelled)
        iou = correct[present] / (labelled + predicted - correct)[present]
        lowest = int(iou.argmin())
        worst, share = self._task.classes[present[lowest]], float(correct.sum() / labelled.sum())
        return ImageScore(name, float(iou.mean()), share, int(labelled.sum()), worst, float(iou[lowest]))


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


def _probe(batch: Batch, prediction: Tensor, index: int) -> Probe:
    return Probe(
        image=batch.image[index].permute(1, 2, 0).cpu().numpy(),
        target=batch.target[index].cpu().numpy(),
        prediction=prediction[index].to(batch.target.dtype).cpu().numpy(),
        mined=None,
        loss=None,
        id=batch.ids[index],
    )


def _lowest(found: list[tuple[ImageScore, Probe]], keep: int) -> list[tuple[ImageScore, Probe]]:
    return sorted(found, key=lambda one: (one[0].miou, one[0].id))[:keep]
