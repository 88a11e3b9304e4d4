"""The terms of a criterion: pixel losses that share one selection of pixels, or one region loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Union

import torch
from torch import Tensor, nn

from segtrain.losses.components import Pixelwise, Regionwise
from segtrain.losses.maps import LossMap, PixelLoss, Reduced, Reduction, Selection, checked, kept_and_all, of_all
from segtrain.losses.mining import Mean
from segtrain.losses.presence import ImagePresence
from segtrain.schedule import Schedule
from segtrain.task import Link, Output, logits_of
from segtrain.upsampling import Logits, Upsampled, full_resolution

Weight = float | Schedule
Term = Union["PixelTerms", "RegionTerm", "ImageTerm"]


class Sums(NamedTuple):
    """One term's sums on this rank: over what is kept, and over all that is valid."""

    kept: Reduced
    all: Reduced


class Part(NamedTuple):
    """What some terms give for one batch."""

    sums: list[Sums]
    logs: dict[str, Tensor]  # of their mining, empty if they are not mined


class PixelTerms(nn.Module):
    """Named pixel losses under one reduction, which ranks by one of them; valid is what is valid in all of them.

    Logits are [B, C, *], labels [B, *]; `rank_by` is the number of the loss that decides.
    """

    def __init__(
        self, losses: Sequence[PixelLoss], names: Sequence[str], reduction: Reduction, rank_by: int = 0
    ) -> None:
        super().__init__()
        self.losses = list(losses)
        self._modules_among_them = nn.ModuleList([loss for loss in losses if isinstance(loss, nn.Module)])
        self.names = list(names)
        self.reduction = reduction
        self.rank_by = rank_by

    @property
    def link(self) -> Link:
        """How the losses read logits."""
        return self.losses[0].link

    @property
    def mined(self) -> bool:
        """Whether anything that is valid may be left out."""
        return not isinstance(self.reduction, Mean)

    def renamed(self, names: Sequence[str]) -> PixelTerms:
        """The same under other names."""
        return PixelTerms(self.losses, names, self.reduction, self.rank_by)

    def mass(self, target: Tensor) -> list[Tensor]:
        """Σ weight of the valid entries of labels [B, *] on this rank, a scalar for each loss."""
        weights = [loss.weigh(target) for loss in self.losses]
        valid = _all_of([weight > 0 for weight in weights])
        return [(weight.double() * valid).sum() for weight in weights]

    @property
    def makes_bands(self) -> bool:
        """Whether logits may come at low resolution, and are never held at full."""
        return all(isinstance(loss, Pixelwise) and loss.has_kernel for loss in self.losses)

    def forward(self, output: Logits | Output, target: Tensor, step: int) -> Part:
        """The sums of a batch: logits [B, C, *], labels [B, *]."""
        maps, selection = self.select(logits_of(output), target, step)
        return Part([Sums(*kept_and_all(one, selection.kept)) for one in maps], selection.logs)

    def plain(self, logits: Logits, target: Tensor) -> list[Reduced]:
        """The sums over everything valid on this rank, without gradient for logits at low resolution."""
        if not isinstance(logits, Upsampled) or target.is_floating_point():
            return [of_all(one) for one in self.maps(full_resolution(logits), target)]
        bands = [self.plain(band, target[at]) for at, band in logits.bands()]
        sums = [torch.stack([torch.stack([one.total.double(), one.count]) for one in band]) for band in bands]
        return [Reduced(total, count) for total, count in torch.stack(sums).sum(0)]

    def maps(self, logits: Logits, target: Tensor) -> list[LossMap]:
        """One map per loss, with what is valid in all of them."""
        if not self.makes_bands:
            logits = full_resolution(logits)
        maps = [checked(loss(logits, target), loss, target) for loss in self.losses]  # type: ignore[arg-type]
        if len(maps) == 1:
            return maps
        valid = _all_of([one.valid for one in maps])
        return [_restrict(one, valid) for one in maps]

    def select(
        self, logits: Logits, target: Tensor, step: int, *, over_ranks: bool = True
    ) -> tuple[list[LossMap], Selection]:
        """The maps, and what is kept of them."""
        maps = self.maps(logits, target)
        classes = max(logits.shape[1], 2)
        return maps, self.reduction(maps[self.rank_by], step, target, classes, over_ranks=over_ranks)


class RegionTerm(nn.Module):
    """One region loss."""

    mined = False
    makes_bands = False

    def __init__(self, loss: Regionwise, name: str) -> None:
        super().__init__()
        self.loss = loss
        self.names = [name]

    @property
    def link(self) -> Link:
        return self.loss.link

    def renamed(self, names: Sequence[str]) -> RegionTerm:
        return RegionTerm(self.loss, names[0])

    def mass(self, target: Tensor) -> list[Tensor]:
        return [self.loss.mass(target)]

    def forward(self, output: Logits | Output, target: Tensor, step: int) -> Part:
        sums = self.loss(full_resolution(logits_of(output)), target)
        return Part([Sums(sums, sums)], {})

    def plain(self, logits: Logits, target: Tensor) -> list[Reduced]:
        """The sums of this batch on this rank."""
        return [self.loss(full_resolution(logits), target, over_ranks=False)]


class ImageTerm(nn.Module):
    """The loss of an image head, whose scores a model gives in training only."""

    mined = False
    makes_bands = True
    link = None  # it does not read the logits of the pixels

    def __init__(self, loss: ImagePresence, name: str) -> None:
        super().__init__()
        self.loss = loss
        self.names = [name]

    def renamed(self, names: Sequence[str]) -> ImageTerm:
        return ImageTerm(self.loss, names[0])

    def mass(self, target: Tensor) -> list[Tensor]:
        return [self.loss.mass(target)]

    def forward(self, output: Logits | Output, target: Tensor, step: int) -> Part:
        if not isinstance(output, Output):
            raise ValueError(
                f"{self.loss.name} reads the scores of an image head, which this model does not have; expected an "
                "Output(logits, image) in training; model smp has one with aux_params"
            )
        sums = self.loss(output.image, target)
        return Part([Sums(sums, sums)], {})

    def plain(self, logits: Logits, target: Tensor) -> list[Reduced]:
        """Nothing: in evaluation there are no scores of images."""
        nothing = torch.zeros((), dtype=torch.float64, device=logits.device)
        return [Reduced(nothing, nothing)]


def weight_at(factors: Sequence[Weight], step: int) -> float:
    """The product of fixed and scheduled factors."""
    return math.prod([factor(step) if callable(factor) else factor for factor in factors])  # a list: for the compiler


def _all_of(masks: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(masks)).all(0)


def _restrict(one: LossMap, valid: Tensor) -> LossMap:
    value, weight, hardness = (torch.where(valid, x, 0.0) for x in one[:3])
    return LossMap(value, weight, hardness, valid)
