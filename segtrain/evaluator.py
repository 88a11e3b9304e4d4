"""Evaluation: whole images at label resolution, each counted once on any number of ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from segtrain.distributed import is_main, sum_over_ranks
from segtrain.inference import WHOLE, Inference
from segtrain.losses.criterion import Criterion
from segtrain.memory import memory_for
from segtrain.metrics.boundary import BoundaryIoU
from segtrain.metrics.evaluation import Evaluation, Probe
from segtrain.metrics.scores import meter
from segtrain.metrics.tags import BOUNDARY_PX, BOUNDARY_TAG
from segtrain.metrics.worst import ConfidentMistakes, LowestIoU
from segtrain.models.common import upsampling_deferred
from segtrain.precision import Precision
from segtrain.task import Batch, Task, predict, probabilities
from segtrain.upsampling import Logits, by_pixel, full_resolution

SMALLER_BATCH = "Lower data.val_batch_size (it changes no score), or prepare smaller images in data.val_prepare"


class Watcher(Protocol):
    """Looks at each batch of an evaluation as well: at class ids [B, H, W], of a classifier at logits [B, C]."""

    def update(self, answer: Tensor, batch: Batch, /) -> None: ...


class Evaluator:
    """Runs a model over a loader and reports; changes nothing but the model's train/eval mode, which it restores."""

    def __init__(
        self,
        loader: Iterable[Batch],
        task: Task,
        criterion: Criterion,
        *,
        precision: Precision,
        probes: Sequence[Batch] = (),
        train_probes: Sequence[Batch] = (),
        pictures: int = 0,
        inference: Inference = WHOLE,
        also: Sequence[Watcher] = (),
    ) -> None:
        self.loader = loader
        self.task = task
        self.criterion = criterion
        self.precision = precision
        self.probes = probes  # the same images at every evaluation, so that pictures can be compared
        self.train_probes = train_probes
        self.pictures = pictures  # how many mistakes of a classifier, or of the worst images, to show
        self.inference = inference
        self.also = also

    @torch.no_grad()
    def __call__(self, model: nn.Module, step: int) -> Evaluation:
        """The scores of `model` over all ranks, the plain loss (mining is for training), and the probes on rank 0."""
        device, segmentation = self.precision.device, self.task.kind == "segmentation"
        was_training = model.training
        model.eval()
        scores = meter(self.task, device)
        outlines = BoundaryIoU(self.task, BOUNDARY_PX, device) if segmentation else None
        wrong = (LowestIoU if segmentation else ConfidentMistakes)(self.task, self.pictures)
        losses = torch.zeros(len(self.criterion.names), 2, dtype=torch.float64, device=device)
        for batch in self.loader:
            with memory_for(batch.in_words, device, SMALLER_BATCH):
                batch = batch.to(device)
                logits = self._logits(model, batch)
                answer = full_resolution(logits) if outlines is None else by_pixel(predict, logits)
                scores.update(answer, batch.target)
                if outlines is not None:
                    outlines.update(answer, batch.target)
                for watcher in (wrong, *self.also):
                    watcher.update(answer, batch)
                losses += self.criterion.plain(logits, batch.target, step)
        loss = sum(total / count for total, count in sum_over_ranks(losses).tolist() if count)
        fixed = (self.probes, self.train_probes) if is_main() else ((), ())
        probes, train_probes = (tuple(p for batch in one for p in self._probes(model, batch, step)) for one in fixed)
        model.train(was_training)
        result = scores.total()
        boundary = {} if outlines is None else {BOUNDARY_TAG: outlines.mean()}
        scalars = {**result.scalars(), **boundary, "val/loss": loss}
        classes, confusion = self.task.classes, result.confusion
        return Evaluation(scalars, classes, confusion, self.task, probes, wrong.total(), train_probes)

    def _logits(self, model: nn.Module, batch: Batch) -> Logits:
        deferred = upsampling_deferred(model) if self.inference == WHOLE else nullcontext()
        with self.precision.autocast(), deferred:
            return self.inference(model, batch.image)

    def _probes(self, model: nn.Module, batch: Batch, step: int) -> list[Probe]:
        batch = batch.to(self.precision.device)
        logits = self._logits(model, batch)
        seen = self.criterion.inspect(logits, batch.target, step)
        classes = by_pixel(predict, logits)
        mined, losses = (None, None) if seen is None else (seen.share, seen.hardness)
        of_classifier = self.task.kind == "classification"
        sure = probabilities(full_resolution(logits)).amax(1) if of_classifier else None

        def at(values: Tensor | None, index: int) -> Tensor | None:
            return None if values is None else values[index]

        return [
            Probe.of(batch, i, classes[i], mined=at(mined, i), loss=at(losses, i), confidence=at(sure, i))
            for i in range(len(batch.ids))
        ]
