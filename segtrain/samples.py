"""How hard each training sample of a classifier is, over the whole run: wrong labels stay hard."""

from __future__ import annotations

import torch
from torch import Tensor

from segtrain.losses.criterion import Criterion
from segtrain.observers.observer import SampleLoss
from segtrain.task import Batch, predict
from segtrain.upsampling import Logits


class SampleLosses:
    """Keeps the losses of samples on the device until they are read; of pixels it keeps nothing."""

    def __init__(self, criterion: Criterion) -> None:
        self._criterion = criterion
        self._ids: list[str] = []
        self._numbers: list[Tensor] = []

    def see(self, logits: Logits, batch: Batch, step: int) -> None:
        """Look at the logits [B, C] of a training batch. Does not wait for the device."""
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            return
        losses = self._criterion.by_sample(logits, batch.target, step)
        if losses is not None:
            self._ids += batch.ids
            self._numbers.append(torch.stack([*losses, batch.target.float(), predict(logits).float()]))

    def read(self) -> list[SampleLoss]:
        """What was seen since the last call, of samples that have a label. Waits for the device once."""
        if not self._ids:
            return []
        columns = torch.cat(self._numbers, 1).T.tolist()
        seen = [
            SampleLoss(name, label=int(label), prediction=int(prediction), loss=loss, share=share)
            for name, (loss, share, label, prediction) in zip(self._ids, columns, strict=True)
            if label != self._criterion.task.ignore_index
        ]
        self._ids, self._numbers = [], []
        return seen
