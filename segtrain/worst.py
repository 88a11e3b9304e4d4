"""The images of an evaluation that a segmentation does worst."""

from __future__ import annotations

import math

from torch import Tensor

from segtrain.distributed import of_all_ranks
from segtrain.image_scores import iou_of_images
from segtrain.metrics import Probe
from segtrain.task import Batch, Task


class WorstImages:
    """Collects batch after batch and keeps the `keep` images with the lowest IoU. Waits for the device."""

    def __init__(self, task: Task, keep: int) -> None:
        self._task, self._keep = task, keep
        self._found: list[Probe] = []

    def update(self, prediction: Tensor, batch: Batch) -> None:
        """Look at the predicted class ids [B, H, W] of a batch."""
        if not self._keep:
            return
        ious = iou_of_images(prediction, batch.target, self._task)
        lowest = ious.topk(min(self._keep, len(ious)), largest=False)
        bar = math.inf if len(self._found) < self._keep else _iou(self._found[-1])
        for iou, index in zip(lowest.values.tolist(), lowest.indices.tolist(), strict=True):
            if iou >= bar:
                break
            self._found.append(Probe.of(batch, index, prediction[index], iou=iou))
        self._found = _lowest(self._found, self._keep)

    def total(self) -> tuple[Probe, ...]:
        """The worst of all ranks, the lowest IoU first. Every rank takes part."""
        return tuple(_lowest([probe for found in of_all_ranks(self._found) for probe in found], self._keep))


def _lowest(found: list[Probe], keep: int) -> list[Probe]:
    return sorted(found, key=lambda probe: (_iou(probe), probe.id))[:keep]


def _iou(probe: Probe) -> float:
    return math.inf if probe.iou is None else probe.iou
