"""The images that a model does worst, found in one pass that keeps only the worst so far.

All of them wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segtrain.distributed import of_all_ranks
from segtrain.metrics.evaluation import Probe
from segtrain.metrics.images import iou_of_images
from segtrain.task import Batch, Task, predict, probabilities

Found = tuple[float, Probe]


class _Worst:
    """The `keep` images with the highest of some scores; of equal ones those whose id comes first."""

    def __init__(self, task: Task, keep: int) -> None:
        self._task, self._keep = task, keep
        self._found: list[Found] = []

    def total(self) -> tuple[Probe, ...]:
        """The worst of all ranks, the worst first. Every rank takes part."""
        return tuple(probe for _, probe in self._highest([one for some in of_all_ranks(self._found) for one in some]))

    def _offer(self, scores: Tensor, ids: Sequence[str], probe: Callable[[int], Probe]) -> None:
        """Keep images of a batch by their scores [B]; -infinity and NaN are none. Only what is kept is made a probe."""
        order = sorted((-score, ids[i], i) for i, score in enumerate(scores.tolist()) if score > -math.inf)
        bar = _place(self._found[-1]) if len(self._found) >= self._keep else (math.inf, "")
        better = [(-low, probe(i)) for low, name, i in order[: self._keep] if (low, name) < bar]
        self._found = self._highest(self._found + better)

    def _highest(self, found: list[Found]) -> list[Found]:
        return sorted(found, key=_place)[: self._keep]


def _place(found: Found) -> tuple[float, str]:
    return -found[0], found[1].id


class LowestIoU(_Worst):
    """The images of a segmentation with the lowest mean IoU of the classes in their label."""

    def update(self, prediction: Tensor, batch: Batch) -> None:
        """Look at the predicted class ids [B, H, W] of a batch."""
        if self._keep:
            ious = iou_of_images(prediction, batch.target, self._task)
            self._offer(-ious, batch.ids, lambda i: Probe.of(batch, i, prediction[i], iou=float(ious[i])))


class ConfidentMistakes(_Worst):
    """The images that a classifier is most confidently wrong about; wrong labels are often among them."""

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Look at the logits [B, C] of a batch."""
        if not self._keep:
            return
        shares = probabilities(logits)
        confidence, prediction = shares.max(1)
        wrong = (prediction != batch.target) & (batch.target != self._task.ignore_index)

        def probe(i: int) -> Probe:
            loss = -shares[i, batch.target[i]].log()
            return Probe.of(batch, i, prediction[i], loss=loss, confidence=confidence[i])

        self._offer(torch.where(wrong, confidence, -torch.inf), batch.ids, probe)


class LargestLoss(_Worst):
    """The images with the largest mean loss over their valid pixels."""

    def update(self, hardness: Tensor, valid: Tensor, logits: Tensor, batch: Batch) -> None:
        """Look at the losses [B, *] of a batch with logits [B, C, *]."""
        if not self._keep:
            return
        pixels = valid.flatten(1) if valid.dim() > 1 else valid[:, None]

        def probe(i: int) -> Probe:
            of_image = logits[i : i + 1]
            confidence = probabilities(of_image).amax() if self._task.kind == "classification" else None
            return Probe.of(batch, i, predict(of_image)[0], loss=hardness[i], confidence=confidence)

        self._offer((hardness.view(pixels.shape) * pixels).sum(1) / pixels.sum(1).clamp(min=1), batch.ids, probe)

    def mined(self, threshold: float) -> list[Probe]:
        """The hardest first; mined is what has a loss of at least `threshold`."""
        return [replace(probe, mined=self._mined(probe, threshold)) for probe in self.total()]

    def _mined(self, probe: Probe, threshold: float) -> npt.NDArray[np.float32]:
        kept = (np.asarray(probe.loss) >= threshold) & (probe.target != self._task.ignore_index)
        return np.asarray(kept, np.float32)
