"""The models that `segtrain mining` asks, and the loss that they are asked about."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from segtrain.build import label_counts
from segtrain.errors import UserError
from segtrain.kept import newest_first
from segtrain.losses import components
from segtrain.losses.criterion import Criterion, as_criterion
from segtrain.losses.maps import LossMap
from segtrain.losses.terms import PixelTerms
from segtrain.registry import CRITERIA, PIXEL_LOSSES, REGION_LOSSES
from segtrain.trained import Trained, Weights, load_trained

OTHERS = 2  # other checkpoints of a run that are asked as well, the newest


class Ranking(NamedTuple):
    """What pixels are ranked by: the loss that the run mines by, or else its first one."""

    terms: PixelTerms
    name: str
    top_p: float | None  # that the run mines in the end; None: it does not mine a share
    remarks: tuple[str, ...] = ()

    def __call__(self, logits: Tensor, target: Tensor) -> LossMap:
        """The losses of a batch."""
        return self.terms.maps(logits, target)[self.terms.rank_by]


def loaded(path: Path, device: torch.device, weights: Weights) -> list[Trained]:
    """The model of a checkpoint; or the best one of a run's directory, then its others from the newest on."""
    models = {(best := load_trained(path, device, weights=weights)).step: best}
    if path.is_dir():
        for file in newest_first(path / "checkpoints"):
            if len(models) <= OTHERS:
                other = load_trained(file, device, weights=weights)
                models.setdefault(other.step, other)
    return list(models.values())


def ranking(trained: Trained) -> Ranking:
    """The loss of the run's criterion that ranks pixels, without its weights and smoothing."""
    name, remarks = trained.config.criterion.name, tuple[str, ...]()
    try:
        criterion = _criterion(trained)
    except UserError as error:
        criterion, remarks = _plain(trained), (f"the criterion cannot be made again: {error.messages[0]}",)
    if not any(isinstance(part, PixelTerms) for part in criterion.parts):
        criterion, remarks = _plain(trained), (f"{name} has no loss for each pixel",)
    if remarks:
        name = "cross_entropy" if trained.link == "softmax" else "bce_with_logits"
        remarks = (f"{remarks[0]}; pixels are ranked by {name}",)
    terms = [part for part in criterion.to(trained.precision.device).parts if isinstance(part, PixelTerms)]
    ranks = next((part for part in terms if part.mined), terms[0])
    return Ranking(ranks, name, criterion.mined_share(sys.maxsize), remarks)


def _criterion(trained: Trained) -> Criterion:
    config, maker = trained.config, trained.maker
    maker.run_for(config.train.steps or max(1, trained.step))
    maker.label_counts = cache(lambda: label_counts(maker.make(config.data.train)))
    for registry in (CRITERIA, PIXEL_LOSSES, REGION_LOSSES):
        maker.context[registry] = (trained.task,)
    return as_criterion(maker.make(config.criterion), trained.task)


def _plain(trained: Trained) -> Criterion:
    loss = components.cross_entropy if trained.link == "softmax" else components.bce_with_logits
    return as_criterion(loss(trained.task), trained.task)
