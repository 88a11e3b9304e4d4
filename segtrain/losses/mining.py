"""Reductions: which entries of a loss map are kept. Mean keeps all, Hardest and Threshold mine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from segtrain.distributed import min_over_ranks, sum_over_ranks
from segtrain.losses.maps import LossMap, Selection, as_factor
from segtrain.schedule import Rise, Schedule, Steps, between
from segtrain.selection import ROUNDING, Cut, Taken, portion_of, sums_of_groups, take_largest

Scope = Literal["batch", "rank", "image"]
Warmup = Steps | Rise | None


@dataclass(frozen=True)
class Mean:
    """Keeps every valid entry."""

    def __call__(
        self, losses: LossMap, step: int, target: Tensor, num_classes: int, *, over_ranks: bool = True
    ) -> Selection:
        nothing = losses.hardness.new_zeros(0)
        return Selection(losses.valid, nothing, {})


@dataclass(frozen=True)
class Hardest:
    """Keeps the hardest `fraction(step)` of the valid entries of each group.

    Of n entries k = min(n, max(1, ⌊p·n + 1e-6⌋)) are kept; those tied at the threshold share what is left, so the
    kept weight is exactly k. `scope` is the group: "batch" (this batch over all ranks), "rank" (of this process) or
    "image". `skip_hardest` σ first drops the ⌊σ·n + 1e-6⌋ hardest finite entries, which are often wrong labels.
    `min_per_class` m reserves the m hardest entries of each class present before the rest is filled up to k.
    """

    fraction: Schedule
    scope: Scope = "batch"
    skip_hardest: float = 0.0
    min_per_class: int = 0

    def __post_init__(self) -> None:
        check_scope(self.scope)
        if not 0 <= self.skip_hardest < 1:
            raise ValueError(
                f"skip_hardest {self.skip_hardest}; expected a share of the valid pixels, 0 <= skip_hardest < 1"
            )
        if isinstance(self.min_per_class, bool) or self.min_per_class < 0:
            raise ValueError(f"min_per_class {self.min_per_class}; expected a number of pixels >= 0")

    def __call__(
        self, losses: LossMap, step: int, target: Tensor, num_classes: int, *, over_ranks: bool = True
    ) -> Selection:
        p = check_share("the share of mined pixels", self.fraction(step))
        groups = _Groups(losses, self.scope, over_ranks)
        if not self.skip_hardest and (p == 1 or not self.min_per_class):
            return groups.all(p) if p == 1 else groups.hardest(p)
        free = losses.valid
        n = groups.sum(free)
        k = portion_of(p, n)
        if self.skip_hardest:
            finite = free & losses.hardness.isfinite()
            dropped = (self.skip_hardest * n + ROUNDING).floor().minimum(groups.sum(finite))
            free = free.double() - groups.take(finite, dropped).share.double()
            k = k.minimum(groups.sum(free))
        reserved = None
        if self.min_per_class:
            by_class = groups.by_class(target, num_classes)
            reserve = by_class.sum(free).clamp(max=self.min_per_class)
            reserved = by_class.take(free, reserve).share.double()
            free = free.double() - reserved
            k = (k - groups.sum(reserved)).clamp(min=0)
        taken = groups.take(free, k)
        kept = taken.kept if reserved is None else reserved + taken.share
        return selected(losses, kept, taken.threshold, p)


@dataclass(frozen=True)
class Threshold:
    """Keeps the valid entries whose label has a probability below `threshold`, but at least `min_kept` per group.

    Online hard example mining as many code bases have it; here the mean is over what is kept, and exactly
    max(min(n, min_kept), number below the threshold) entries are. A probability q stands for the loss -ln q.
    """

    threshold: float
    min_kept: int
    scope: Scope = "batch"

    def __post_init__(self) -> None:
        check_scope(self.scope)
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold {self.threshold}; expected a probability between 0 and 1, for example 0.7")
        if isinstance(self.min_kept, bool) or self.min_kept < 1:
            raise ValueError(f"min_kept {self.min_kept}; expected a number of pixels >= 1")

    def __call__(
        self, losses: LossMap, step: int, target: Tensor, num_classes: int, *, over_ranks: bool = True
    ) -> Selection:
        groups = _Groups(losses, self.scope, over_ranks)
        free = losses.valid
        hard = groups.sum(free & ~(losses.hardness <= -math.log(self.threshold)))  # NaN is hard
        k = hard.maximum(groups.sum(free).clamp(max=self.min_kept))
        taken = groups.take(free, k)
        return selected(losses, taken.kept, taken.threshold)


def selected(losses: LossMap, kept: Tensor | Cut, threshold: Tensor, top_p: float | None = None) -> Selection:
    """A selection with its statistics, for any rule: `kept` [B, *] is its share of each entry, float64 or bool.

    `threshold` [G] is the smallest hardness kept in each group, NaN where nothing is; `top_p` is what was wanted.
    """
    logs = _statistics(losses, kept) | {
        "threshold": threshold.nansum(dtype=torch.float64),
        "thresholds": (threshold == threshold).sum(dtype=torch.float64),
    }
    if top_p is not None:
        logs["top_p"] = torch.full_like(logs["kept"], top_p)
    return Selection(kept, threshold, logs)


def _statistics(losses: LossMap, kept: Tensor | Cut) -> dict[str, Tensor]:
    """Numbers of entries and sums of their hardness, float64."""
    if isinstance(kept, Cut):
        sums = kept.sums(losses.hardness)
        hardness = {"hardness_kept": sums.exact_taken_of_x, "hardness_all": sums.exact_of_x}
        return {"kept": sums.taken, "valid": sums.number} | hardness
    hardness_all = losses.hardness.sum().double()
    if kept is losses.valid:
        hardness_kept = hardness_all
    else:
        hardness_kept = (as_factor(kept, losses.hardness.dtype) * losses.hardness).sum().double()
    return {
        "kept": (kept.count_nonzero() if kept.dtype == torch.bool else kept.sum()).double(),
        "valid": losses.valid.count_nonzero().double(),
        "hardness_kept": hardness_kept,
        "hardness_all": hardness_all,
    }


def mined_share(top_p: float, warmup: int | Schedule | None, step: int) -> float:
    """The share of pixels kept at `step`: all before an integer warm-up, or from all to `top_p` as a schedule rises."""
    if warmup is None:
        return top_p
    if callable(warmup):
        return between(1.0, top_p, warmup)(step)
    return 1.0 if step < warmup else top_p


def hardest(
    top_p: float,
    warmup: int | Schedule | None = None,
    scope: Scope = "batch",
    skip_hardest: float = 0.0,
    min_per_class: int = 0,
) -> Hardest:
    """Hardest with a share that goes from 1 to `top_p`; ValueError for a `top_p` outside (0, 1]."""
    check_share("top_p", top_p)
    check_warmup(warmup)
    return Hardest(partial(mined_share, top_p, warmup), scope, skip_hardest, min_per_class)


def check_share(name: str, p: float) -> float:
    """`p`, or ValueError unless it is a number in (0, 1]."""
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 < p <= 1:
        raise ValueError(f"{name} {p}; expected a share of the valid pixels in (0, 1]: 0.25 is the hardest quarter")
    return p


def check_warmup(warmup: object) -> None:
    """Raise ValueError unless `warmup` is None, a number of steps, or something to call."""
    if not (warmup is None or callable(warmup) or (isinstance(warmup, int) and not isinstance(warmup, bool))):
        raise ValueError(f"warmup {warmup!r}; expected a whole number of steps, or a function")


def check_scope(scope: str) -> None:
    """Raise ValueError for a scope that does not exist."""
    if scope not in ("batch", "rank", "image"):
        raise ValueError(f"scope '{scope}'; expected 'batch', 'rank' or 'image'")


class _Groups:
    """The groups in which entries compete: one, or one per image; `by_class` splits each further.

    Images follow each other, so without `ids` the groups are the rows of a matrix.
    """

    def __init__(self, losses: LossMap, scope: Scope, over_ranks: bool) -> None:
        self.losses = losses
        self.over_ranks = over_ranks and scope == "batch"
        self.ids: Tensor | None = None
        self.number = 1
        if scope == "image":
            self.number = losses.valid.shape[0]
            if losses.valid.dim() == 1:
                raise ValueError("scope 'image' with one entry per sample (classification); expected 'batch' or 'rank'")

    def by_class(self, target: Tensor, num_classes: int) -> _Groups:
        if target.shape != self.losses.valid.shape:
            raise ValueError(
                f"min_per_class with a target of shape {tuple(target.shape)}; expected class labels "
                f"{tuple(self.losses.valid.shape)}, without them there is no class to count"
            )
        finer = _Groups(self.losses, "batch", self.over_ranks)
        labels = target.long().clamp(0, num_classes - 1)  # entries that are not valid have nothing to give
        groups = torch.arange(self.number, device=labels.device).repeat_interleave(
            labels.numel() // max(1, self.number)
        )
        finer.ids = groups.view_as(labels) * num_classes + labels
        finer.number = self.number * num_classes
        return finer

    def sum(self, amount: Tensor) -> Tensor:
        """Σ over each group of float64, or of bool, float64 [G]."""
        if self.ids is None:
            return sums_of_groups(amount, self.number, over_ranks=self.over_ranks)
        zeros = amount.new_zeros(self.number, dtype=torch.float64)
        total = zeros.scatter_add(0, self.ids.flatten(), amount.flatten().double())
        return sum_over_ranks(total) if self.over_ranks else total

    def take(self, available: Tensor, amount: Tensor) -> Taken:
        """`amount` [G] of what is `available`, from the hardest entries."""
        return take_largest(self.losses.hardness, available, amount, self.ids, over_ranks=self.over_ranks)

    def hardest(self, p: float) -> Selection:
        """The hardest p of the valid entries of each group."""
        amount = torch.full((self.number,), p, dtype=torch.float64, device=self.losses.valid.device)
        taken = take_largest(self.losses.hardness, self.losses.valid, amount, portion=True, over_ranks=self.over_ranks)
        return selected(self.losses, taken.kept, taken.threshold, p)

    def all(self, p: float) -> Selection:
        """Everything valid; the threshold of a group is its smallest hardness."""
        valid, number = self.losses.valid, self.sum(self.losses.valid)
        hardness = torch.where(valid, self.losses.hardness, torch.inf)
        here = hardness.new_full((self.number,), torch.inf)
        if hardness.numel():
            here = hardness.reshape(self.number, -1).amin(1)
        smallest = min_over_ranks(here) if self.over_ranks else here
        return selected(self.losses, valid, torch.where(number > 0, smallest, torch.nan), p)
