"""The images of an evaluation that a segmentation does worst."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segtrain.distributed import of_all_ranks
from segtrain.metrics import Probe, histogram
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
            self._found.append(
                Probe(
                    image=batch.image[index].permute(1, 2, 0).cpu().numpy(),
                    target=batch.target[index].cpu().numpy(),
                    prediction=prediction[index].to(batch.target.dtype).cpu().numpy(),
                    mined=None,
                    loss=None,
                    id=batch.ids[index],
                    iou=iou,
                )
            )
        self._found = _lowest(self._found, self._keep)

    def total(self) -> tuple[Probe, ...]:
        """The worst of all ranks, the lowest IoU first. Every rank takes part."""
        return tuple(_lowest([probe for found in of_all_ranks(self._found) for probe in found], self._keep))


def iou_of_images(prediction: Tensor, target: Tensor, task: Task) -> Tensor:
    """Of each image [B], float64: the mean IoU over the classes in its label; infinity where it has none."""
    k, label = task.num_classes, target.long()
    valid = (label >= 0) & (label < k) & (label != task.ignore_index)
    first = k * torch.arange(len(label), device=label.device).view(-1, 1, 1)
    outside = k * len(label)

    def counts(ids: Tensor, which: Tensor) -> Tensor:
        return histogram(torch.where(which, first + ids, outside).flatten(), outside + 1)[:-1].view(-1, k).double()

    labelled, predicted = counts(label, valid), counts(prediction.long(), valid)
    right = counts(label, valid & (prediction == label))
    present = labelled > 0
    ious = torch.where(present, right / (labelled + predicted - right), 0.0)
    return torch.where(present.any(1), ious.sum(1) / present.sum(1), torch.inf)


def _lowest(found: list[Probe], keep: int) -> list[Probe]:
    return sorted(found, key=_iou)[:keep]


def _iou(probe: Probe) -> float:
    return math.inf if probe.iou is None else probe.iou
