"""The models that `segtrain mining` asks, and the loss that they are asked about."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from segtrain.cli.loaded import criterion, plain_criterion
from segtrain.errors import UserError
from segtrain.kept import newest_first
from segtrain.losses.maps import LossMap
from segtrain.losses.terms import PixelTerms
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
        used = criterion(trained)
        reason = f"{name} has no loss for each pixel"
    except UserError as error:
        used, reason = None, f"the criterion cannot be made again: {error.messages[0]}"
    if used is None or not any(isinstance(part, PixelTerms) for part in used.parts):
        used, name = plain_criterion(trained)
        remarks = (f"{reason}; pixels are ranked by {name}",)
    terms = [part for part in used.to(trained.precision.device).parts if isinstance(part, PixelTerms)]
    ranks = next((part for part in terms if part.mined), terms[0])
    return Ranking(ranks, name, used.mined_share(sys.maxsize), remarks)
