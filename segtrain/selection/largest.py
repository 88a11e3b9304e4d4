"""The largest scores of groups that extend over ranks: exact, whatever ties, the same with any number of ranks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segtrain.distributed import sum_over_ranks, world_size
from segtrain.gpu_code import GPUS, transformed, triton_module
from segtrain.selection.cut import Cut, share_of

_FREE = ("cpu",)  # devices whose numbers the host can read without waiting


def asking_is_free(tensor: Tensor) -> bool:
    """Whether the host may look at the numbers of a tensor: not within a graph that is being compiled, or vmap."""
    compiling = torch.compiler.is_compiling()
    return tensor.device.type in _FREE and not compiling and torch.func.debug_unwrap(tensor) is tensor


class Taken(NamedTuple):
    """What `take_largest` took."""

    kept: Tensor | Cut  # float64, of each entry's `available`; or bool, where that is bool and no entry gives a part
    threshold: Tensor  # [G] the smallest score that was taken from; NaN in a group that gives nothing

    @property
    def share(self) -> Tensor:
        """`kept` as a tensor."""
        return share_of(self.kept)


def take_largest(
    scores: Tensor,
    available: Tensor,
    amount: Tensor,
    group: Tensor | None = None,
    *,
    portion: bool = False,
    over_ranks: bool = True,
) -> Taken:
    """Take `amount` (float64 [G]) of what is `available` (like `scores`) from each group's largest scores.

    Entries tied at the threshold give the same part of what they have, so exactly `amount` is taken, whatever the
    order of the entries. `available` is float64, or bool: all of an entry or nothing. NaN ranks above infinity.
    `group` (int64, like `scores`) tells the group of each entry, None: the groups are as long and follow each other; a
    group extends over all ranks unless `over_ranks` is False. A group must have `amount` to give. `portion`: without
    `group` and of a mask, `amount` is a share of what is available, see `portion_of`.

    Radix selection on the bits of the scores: float32 takes three histograms and as many all-reduces of 16 KiB,
    float64 six. Nothing is read on the host, except on a CPU: there NumPy finds the threshold of one group.
    """
    masked = available.dtype == torch.bool
    if masked and group is None and (gpu := _on_gpu(scores)) is not None:
        cut = gpu.take(scores, available, amount, portion=portion, over_ranks=over_ranks)
        return Taken(cut, cut.threshold)
    thins_out = asking_is_free(scores)  # few are left to look at; a GPU would have to tell how many, a graph cannot
    groups = amount.numel()
    if not groups:
        return Taken(torch.zeros_like(available), torch.empty_like(amount, dtype=scores.dtype))
    if portion:
        amount = portion_of(amount, sums_of_groups(available, groups, over_ranks=over_ranks))
    alone = groups == 1 and not (over_ranks and world_size() > 1)
    if alone and masked and scores.device.type in _FREE:
        if thins_out:
            return _take_here(scores, available, amount)
        if torch.compiler.is_compiling():
            return Taken(*_take_in_a_graph(scores, available, amount))
    if group is None and groups > 1:
        group = torch.arange(groups, device=scores.device).repeat_interleave(scores.numel() // groups).view_as(scores)
    keys = _ordered(scores)
    bits = torch.iinfo(keys.dtype).bits
    threshold = torch.zeros_like(amount, dtype=torch.int64)
    missing, tied = amount, amount
    open_: Tensor | None = available.flatten()
    if masked:
        keys.masked_fill_(~available, torch.iinfo(keys.dtype).min)  # below all scores: nothing is taken from there
        open_ = None
    left, of = keys.flatten(), None if group is None else group.flatten()
    for high in range(bits - _DIGIT, -_DIGIT, -_DIGIT):
        high, width = max(high, 0), min(_DIGIT, high + _DIGIT)
        sign = 1 << (width - 1) if high + width == bits else 0  # the first digit is signed
        digit = (left >> high).add_(sign).bitwise_and_((1 << width) - 1)
        slot = digit if of is None else digit + (of << width)
        if thins_out:
            counts = torch.bincount(slot, open_, groups << width).double()
        else:
            open_ = torch.ones_like(slot, dtype=torch.float64) if open_ is None else open_
            counts = open_.new_zeros(groups << width).scatter_add(0, slot.long(), open_)
        counts = (sum_over_ranks(counts) if over_ranks else counts).view(groups, -1)
        from_here_up = counts.flip(1).cumsum(1).flip(1)
        found = ((from_here_up >= missing[:, None]).sum(1, keepdim=True) - 1).clamp(min=0)
        tied = counts.gather(1, found)[:, 0]
        missing = missing - (from_here_up - counts).gather(1, found)[:, 0]
        threshold = threshold + ((found[:, 0] - sign) << high)
        here = digit == _of(found[:, 0], of)
        if thins_out:
            left, open_, of = left[here], _at(open_, here), _at(of, here)
        elif open_ is not None:
            open_ = torch.where(here, open_, 0.0)
    del left, open_, digit, slot, here
    part = (missing / torch.where(tied > 0, tied, 1.0)).clamp(0, 1)
    threshold = threshold.to(keys.dtype)
    at = _of(threshold, group)
    share = torch.where(keys == at, _of(part, group), keys > at)
    return Taken(share if masked else share.mul_(available), _unordered(threshold, scores.dtype))


def sums_of_groups(amount: Tensor, groups: int, *, over_ranks: bool) -> Tensor:
    """Σ of float64, or of bool, over each of G groups that are as long and follow each other, float64 [G]."""
    whole = groups == 1  # without rows and columns it takes a third of the time
    rows, dim = (amount, None) if whole else (amount.reshape(groups, amount.numel() // max(1, groups)), 1)
    total = rows.count_nonzero(dim) if amount.dtype == torch.bool else rows.sum(dim)
    total = total.double().view(groups)
    return sum_over_ranks(total) if over_ranks else total


ROUNDING = 1e-6  # p·n that is an integer but for rounding is that integer: 0.29·100 is 29


def portion_of(p: Tensor | float, number: Tensor) -> Tensor:
    """How many of n entries the share p is: min(n, max(1, ⌊p·n + 1e-6⌋)), float64."""
    return (p * number + ROUNDING).floor().clamp(min=1).minimum(number)


def _on_gpu(scores: Tensor) -> Any:
    """The kernels for these scores, None where there are none."""
    fits = scores.device.type in GPUS and scores.dtype == torch.float32 and not transformed(scores)
    return triton_module("segtrain.selection.radix") if fits else None


def _take_here(scores: Tensor, available: Tensor, amount: Tensor) -> Taken:
    """The same of a single group on one CPU."""
    wanted = float(amount)
    place = scores.numel() - math.ceil(wanted)
    if place == scores.numel():
        return Taken(torch.zeros_like(available), scores.new_full((1,), torch.nan))
    ordered = torch.where(available, scores, -torch.inf).flatten().numpy()
    threshold = _at_place(ordered, place) + 0.0  # -0 + 0 is 0
    # NumPy compares in a tenth of torch's time; and what is not below is above, at the threshold or NaN
    below = ~np.isnan(scores.numpy()) if np.isnan(threshold) else scores.numpy() < threshold
    share = torch.from_numpy(~below & available.numpy())
    taken = int(share.count_nonzero())  # as a tensor it would meet `wanted` in float32, which cannot count 2^24 pixels
    if taken != wanted:
        tied = share if np.isnan(threshold) else (scores == threshold) & available
        number = int(tied.count_nonzero())
        share = share.double().masked_fill_(tied, (wanted - (taken - number)) / max(number, 1))
    return Taken(share, scores.new_full((1,), float(threshold)))


@torch.library.custom_op("segtrain::take_largest_here", mutates_args=())
def _take_in_a_graph(scores: Tensor, available: Tensor, amount: Tensor) -> tuple[Tensor, Tensor]:
    """The same for the compiler, which does not look into it: what dtype the share has cannot depend on the scores."""
    taken = _take_here(scores, available, amount)
    return taken.share.double().contiguous(), taken.threshold


@_take_in_a_graph.register_fake
def _(scores: Tensor, available: Tensor, amount: Tensor) -> tuple[Tensor, Tensor]:
    share = scores.new_empty(scores.shape, dtype=torch.float64)  # contiguous: scores and mask may be laid out otherwise
    return share, torch.empty_like(amount, dtype=scores.dtype)


_SAMPLE = 1 << 12  # values from which the others are guessed


def _at_place(values: npt.NDArray[Any], place: int) -> Any:
    """What stands at a place when the values, which change places, are sorted; NaN comes last.

    Of many, a sample tells two values that it is between; if that is right, only what is between them is looked at.
    """
    if values.size > 8 * _SAMPLE:
        sample = np.sort(values[:: values.size // _SAMPLE | 1])  # odd, so that it is seldom a column of an image
        guess, margin = place * sample.size // values.size, 2 * math.isqrt(sample.size)  # four standard deviations
        low, high = sample[max(0, guess - margin)], sample[min(sample.size - 1, guess + margin)]
        below = np.count_nonzero(values < low)
        between = values[np.flatnonzero((values >= low) & (values <= high))]
        if below <= place < below + between.size:
            values, place = between, place - below
    values.partition(place)
    return values[place]


_DIGIT = 11  # bits per histogram


def _of(per_group: Tensor, group: Tensor | None) -> Tensor:
    return per_group[0] if group is None else per_group[group]


def _at(entries: Tensor | None, here: Tensor) -> Tensor | None:
    return None if entries is None else entries[here]


def _ordered(scores: Tensor) -> Tensor:
    """Integers as wide that order as the scores do; all zeros are equal, all NaN are equal and above infinity."""
    plain = (scores + 0.0).masked_fill_(scores.isnan(), torch.nan)  # -0 + 0 is 0
    return _flip_(plain.view(torch.int32 if scores.dtype == torch.float32 else torch.int64))


def _unordered(keys: Tensor, dtype: torch.dtype) -> Tensor:
    return _flip_(keys).view(dtype)


def _flip_(bits: Tensor) -> Tensor:
    """All bits but the sign turned over where it is set, in place."""
    limits = torch.iinfo(bits.dtype)
    return bits.bitwise_xor_((bits >> (limits.bits - 1)).bitwise_and_(limits.max))
