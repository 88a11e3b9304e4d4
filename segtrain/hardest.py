"""The images of a data set with the largest loss, found in one pass that keeps only the worst so far."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from segtrain.metrics import Probe
from segtrain.task import Batch, Task, predict, probabilities


class HardestImages:
    """Collects batch after batch and keeps the `keep` images with the largest mean loss over their valid pixels."""

    def __init__(self, task: Task, keep: int) -> None:
        self._task, self._keep = task, keep
        self._found: list[tuple[float, Probe]] = []

    def update(self, hardness: Tensor, valid: Tensor, logits: Tensor, batch: Batch) -> None:
        """Look at the losses [B, *] of a batch with logits [B, C, *]. Waits for the device."""
        pixels = valid.flatten(1) if valid.dim() > 1 else valid[:, None]
        means = ((hardness.view(pixels.shape) * pixels).sum(1) / pixels.sum(1).clamp(min=1)).tolist()
        for index, mean in enumerate(means):
            if self._keep and (len(self._found) < self._keep or mean > self._found[-1][0]):
                self._found.append((mean, self._probe(index, hardness, logits, batch)))
                self._found = sorted(self._found, key=lambda one: -one[0])[: self._keep]

    def probes(self, threshold: float) -> list[Probe]:
        """The hardest first; mined is what has a loss of at least `threshold`."""
        return [
            dataclasses.replace(
                probe,
                mined=((np.asarray(probe.loss) >= threshold) & (probe.target != self._task.ignore_index)).astype(
                    np.float32
                ),
            )
            for _, probe in self._found
        ]

    def _probe(self, index: int, hardness: Tensor, logits: Tensor, batch: Batch) -> Probe:
        of_image = logits[index : index + 1]
        confidence = probabilities(of_image).amax() if self._task.kind == "classification" else None
        return Probe.of(batch, index, predict(of_image)[0], loss=hardness[index], confidence=confidence)
