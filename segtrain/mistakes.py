"""The images of an evaluation that a classifier is most confidently wrong about; wrong labels are often among them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from segtrain.distributed import of_all_ranks
from segtrain.metrics import Probe
from segtrain.task import Batch, Task, probabilities


class Mistakes:
    """Collects batch after batch and keeps the `keep` worst; of pixels it keeps nothing. Waits for the device."""

    def __init__(self, task: Task, keep: int) -> None:
        self._task = task
        self._keep = keep if task.kind == "classification" else 0
        self._found: list[Probe] = []

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Look at logits [B, C] of a batch."""
        if not self._keep:
            return
        shares = probabilities(logits)
        confidence, prediction = shares.max(1)
        wrong = (prediction != batch.target) & (batch.target != self._task.ignore_index)
        worst = torch.where(wrong, confidence, -1.0).topk(min(self._keep, len(confidence)))
        for index in worst.indices[worst.values > self._least()].tolist():
            loss = -shares[index, batch.target[index]].log()
            self._found.append(Probe.of(batch, index, prediction[index], loss=loss, confidence=confidence[index]))
        self._found = _worst(self._found, self._keep)

    def total(self) -> tuple[Probe, ...]:
        """The worst of all ranks, the most confident first. Every rank takes part."""
        return tuple(_worst([probe for found in of_all_ranks(self._found) for probe in found], self._keep))

    def _least(self) -> float:
        return -0.5 if len(self._found) < self._keep else _confidence(self._found[-1])


def _worst(found: list[Probe], keep: int) -> list[Probe]:
    return sorted(found, key=_confidence, reverse=True)[:keep]


def _confidence(probe: Probe) -> float:
    return float(np.asarray(probe.confidence))
