"""Evaluation: whole images at label resolution, each counted once on any number of ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from segtrain.distributed import is_main, sum_over_ranks
from segtrain.losses.criterion import Criterion
from segtrain.metrics import Evaluation, Probe, meter
from segtrain.precision import Precision
from segtrain.task import Batch, Task, predict


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
    ) -> None:
        self.loader = loader
        self.task = task
        self.criterion = criterion
        self.precision = precision
        self.probes = probes  # single images, drawn at every evaluation so that pictures can be compared

    @torch.no_grad()
    def __call__(self, model: nn.Module, step: int) -> Evaluation:
        """The scores of `model` over all ranks, the plain loss (mining is for training), and the probes on rank 0."""
        device = self.precision.device
        was_training = model.training
        model.eval()
        scores = meter(self.task, device)
        losses = torch.zeros(len(self.criterion.names), 2, dtype=torch.float64, device=device)
        for batch in self.loader:
            batch = batch.to(device)
            logits = self._logits(model, batch)
            scores.update(logits, batch.target)
            losses += self.criterion.plain(logits, batch.target, step)
        loss = sum(total / count for total, count in sum_over_ranks(losses).tolist() if count)
        probes = [self._probe(model, batch, step) for batch in self.probes] if is_main() else []
        model.train(was_training)
        result = scores.total()
        scalars = {**result.scalars(), "val/loss": loss}
        return Evaluation(scalars, self.task.classes, result.confusion, self.task, tuple(probes))

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        with self.precision.autocast():
            logits: Tensor = model(batch.image)
        return logits

    def _probe(self, model: nn.Module, batch: Batch, step: int) -> Probe:
        batch = batch.to(self.precision.device)
        logits = self._logits(model, batch)
        seen = self.criterion.inspect(logits, batch.target, step)
        return Probe(
            image=batch.image[0].permute(1, 2, 0).cpu().numpy(),
            target=batch.target[0].cpu().numpy(),
            prediction=predict(logits)[0].to(torch.uint8).cpu().numpy(),
            mined=None if seen is None else seen.share[0].float().cpu().numpy(),
            loss=None if seen is None else seen.hardness[0].float().cpu().numpy(),
            id=batch.ids[0],
        )
