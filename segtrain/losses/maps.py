"""What flows through a criterion: `logits → LossMap → Selection → Reduced → Loss`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from segtrain.distributed import mean_over_ranks
from segtrain.gpu_code import transformed
from segtrain.losses.targets import as_numbers
from segtrain.selection import Cut, CutSums, share_of
from segtrain.task import Link


class LossMap(NamedTuple):
    """One entry per pixel, or per sample in classification; all shapes [B, *]."""

    value: Tensor  # differentiable; float32 (float64 for float64 logits), 0 where not valid
    weight: Tensor  # what it counts for in a mean (class weight), 0 where not valid
    hardness: Tensor  # detached score to rank by: the unweighted, unsmoothed loss; 0 where not valid
    valid: Tensor  # bool: target is not ignored and its class weight is > 0


class Selection(NamedTuple):
    """Which entries of a map are kept."""

    kept: Tensor | Cut  # the share [B, *], or where the cut is that tells it
    threshold: Tensor  # the smallest hardness kept from, one per group with something valid, NaN for the others
    logs: dict[str, Tensor]  # sums and counts on this rank, never means

    @property
    def share(self) -> Tensor:
        """[B, *] in [0, 1], float64 or bool; less than 1 only where entries tie at the threshold."""
        return share_of(self.kept)


@dataclass(frozen=True)
class Reduced:
    """A mean that is not divided yet, so that it can be taken over ranks and micro-batches."""

    total: Tensor  # Σ share·value on this rank, differentiable
    count: Tensor  # Σ share·weight on this rank, float64


class Loss(NamedTuple):
    """`value` is to be minimised: its gradients, averaged over ranks (as DDP does), are those of the global loss."""

    value: Tensor
    logs: dict[str, Tensor]  # sums and counts on this rank; Criterion.scalars makes numbers of their totals


class PixelLoss(Protocol):
    """A loss with one value per pixel (per sample). It never averages. Its mean is Σ value / Σ weight.

    Called with logits [B, C, *] and labels [B, *].
    """

    link: Link

    def __call__(self, logits: Tensor, target: Tensor) -> LossMap: ...

    def weigh(self, target: Tensor) -> Tensor:
        """The `weight` of the map, [B, *], known without the logits."""


class Reduction(Protocol):
    """Says which entries of a map are kept. It never knows which loss it reduces.

    `step`: finished optimizer steps. `target`: labels [B, *]. `over_ranks`: as one batch with those of all ranks.
    """

    def __call__(
        self, losses: LossMap, step: int, target: Tensor, num_classes: int, *, over_ranks: bool = True
    ) -> Selection: ...


def checked(losses: LossMap, loss: PixelLoss, target: Tensor) -> LossMap:
    """The map, if it has an entry for each pixel; raises ValueError that names the loss."""
    if not isinstance(losses, LossMap):
        raise ValueError(
            f"{type(loss).__name__} gave a {type(losses).__name__}; expected a LossMap(value, weight, hardness, valid) "
            "with one entry per pixel, never averaged"
        )
    shapes = [tuple(one.shape) for one in losses]
    labelled = tuple(target.shape) if not target.is_floating_point() else shapes[0]
    if shapes != [labelled] * len(shapes):
        raise ValueError(
            f"{type(loss).__name__} gave value, weight, hardness and valid of shapes {', '.join(map(str, shapes))}; "
            f"expected {labelled} of each, one entry per pixel"
        )
    return losses


def kept_and_all(losses: LossMap, kept: Tensor | Cut) -> tuple[Reduced, Reduced]:
    """The sums of the kept part of a map, and of everything valid in it."""
    if (sums := _sums_by_cut(losses, kept)) is not None:
        return Reduced(sums.taken_of_x, sums.taken_of_y), Reduced(sums.of_x, sums.of_y)
    everything = of_all(losses)
    return everything if kept is losses.valid else reduced(losses, kept), everything


def reduced(losses: LossMap, kept: Tensor | Cut) -> Reduced:
    """The sums of the kept part of a map."""
    if kept is losses.valid:
        return of_all(losses)
    if (sums := _sums_by_cut(losses, kept)) is not None:
        return Reduced(sums.taken_of_x, sums.taken_of_y)
    share = as_factor(share_of(kept), losses.value.dtype)
    return Reduced((losses.value * share).sum(), (losses.weight * share).sum().double())


def _sums_by_cut(losses: LossMap, kept: Tensor | Cut) -> CutSums | None:
    """All sums of value and weight in one pass, None where there is no cut or its kernel does not know these maps."""
    single = losses.value.dtype == losses.weight.dtype == torch.float32
    if isinstance(kept, Cut) and single and not losses.weight.requires_grad and not transformed(losses.value):
        return kept.sums(losses.value, losses.weight)
    return None


def as_factor(share: Tensor, dtype: torch.dtype) -> Tensor:
    """A share, bool or float64, to multiply a map with: a product in float64 would be felt."""
    return as_numbers(share, dtype) if share.dtype == torch.bool else share.to(dtype)


def of_all(losses: LossMap) -> Reduced:
    """The sums of everything valid in a map; the rest of it is 0."""
    return Reduced(losses.value.sum(), losses.weight.sum().double())


def divide(totals: Tensor, counts: Tensor, *, over_ranks: bool = True) -> Tensor:
    """The means Σ total / Σ count over all ranks as each must return them: they average to the mean. No count: 0."""
    if over_ranks:
        counts = mean_over_ranks(counts)
    return totals / torch.where(counts > 0, counts, 1.0).to(totals.dtype)
