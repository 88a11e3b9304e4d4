"""What flows through a criterion: `logits → LossMap → Reduced → Loss`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from segtrain.task import Link


class LossMap(NamedTuple):
    """One entry per pixel, or per sample in classification; all shapes [B, *]."""

    value: Tensor  # differentiable; float32 (float64 for float64 logits), 0 where not valid
    weight: Tensor  # what it counts for in a mean (class weight), 0 where not valid
    hardness: Tensor  # detached score to rank by: the unweighted, unsmoothed loss
    valid: Tensor  # bool: target is not ignored and its class weight is > 0


@dataclass(frozen=True)
class Reduced:
    """A mean that is not divided yet, so that it can be taken over ranks and micro-batches."""

    total: Tensor  # Σ share·value on this rank, differentiable
    count: Tensor  # Σ share·weight on this rank
    logs: dict[str, Tensor]  # sums and counts on this rank, never means


class Loss(NamedTuple):
    """`value` is to be minimised: its gradients, averaged over ranks (as DDP does), are those of the global loss."""

    value: Tensor
    logs: dict[str, Tensor]  # sums and counts on this rank; Criterion.scalars makes numbers of their totals


class PixelLoss(Protocol):
    """A loss with one value per pixel (per sample). It never averages. Its mean is Σ value / Σ weight."""

    link: Link

    def __call__(self, logits: Tensor, target: Tensor) -> LossMap: ...


class Reduction(Protocol):
    """From a map to its sums over the pixels it keeps. It never knows which loss it reduces."""

    def __call__(self, losses: LossMap, step: int) -> Reduced: ...
