"""Where to cut off the largest scores on a GPU, in Triton: three histograms of 11, 11 and 10 bits.

A histogram is counted in the shared memory of a multiprocessor, where torch's `scatter_add` would add float64 numbers
in the few places of memory in which most scores are. All sums are of integers, so their order does not matter.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: N803, SIM108
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from segtrain.distributed import sum_over_ranks, world_size
from segtrain.gpu_code import on_device_of
from segtrain.selection.cut import Cut

BLOCK = 4096
WARPS = 8
DIGITS = ((21, 11), (10, 11), (0, 10))  # lowest bit, bits
_PROGRAMS = 1024  # all groups together: more than a GPU has at a time, and few sums to add up


@triton.jit
def ordered(score):
    """An integer that orders as the scores do; all zeros are equal, all NaN are equal and above infinity."""
    bits = (score + 0.0).to(tl.int32, bitcast=True)  # -0 + 0 is 0
    bits = tl.where(score != score, 0x7FC00000, bits)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def count_kernel(
    scores, available, threshold, counts, length, programs,
    HIGH: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """How many scores of a group have which digit, of those whose higher digits are the threshold's."""
    group = tl.program_id(0) // programs
    first = group.to(tl.int64) * length
    if HIGH + WIDTH < 32:
        above = tl.load(threshold + group)
    number = tl.zeros([1 << WIDTH], tl.int32)
    for start in range(tl.program_id(0) % programs * BLOCK, length, BLOCK * programs):
        at = start + tl.arange(0, BLOCK)
        here = tl.load(available + first + at, at < length, other=0) != 0
        key = ordered(tl.load(scores + first + at, at < length, other=0.0))
        if HIGH + WIDTH < 32:
            here &= (key >> (HIGH + WIDTH)) == (above >> (HIGH + WIDTH))
            digit = (key >> HIGH) & ((1 << WIDTH) - 1)
        else:
            digit = (key >> HIGH) + (1 << (WIDTH - 1))  # the first digit is signed
        number += tl.histogram(digit, 1 << WIDTH, here)
    digits = tl.arange(0, 1 << WIDTH)
    tl.atomic_add(counts + group.to(tl.int64) * (1 << WIDTH) + digits, number, number > 0)


@triton.jit
def cut_kernel(
    counts, amount, missing, threshold, score, part,
    PORTION: tl.constexpr, HIGH: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The digit at which a group has given enough, and what is still missing of those that have it."""
    group = tl.program_id(0)
    digits = tl.arange(0, 1 << WIDTH)
    number = tl.load(counts + group.to(tl.int64) * (1 << WIDTH) + digits).to(tl.float64)
    if HIGH + WIDTH < 32:
        wanted = tl.load(missing + group)
    elif PORTION:  # as `portion_of`
        there = tl.sum(number, 0)
        wanted = tl.minimum(tl.maximum(tl.floor(tl.load(amount + group) * there + 1e-6), 1.0), there)
    else:
        wanted = tl.load(amount + group)
    from_here_up = tl.cumsum(number, 0, reverse=True)
    found = tl.maximum(tl.sum((from_here_up >= wanted).to(tl.int32), 0) - 1, 0)
    wanted -= tl.sum(tl.where(digits > found, number, 0.0), 0)
    tl.store(missing + group, wanted)
    if HIGH + WIDTH == 32:
        key = (found - (1 << (WIDTH - 1))) << HIGH
    else:
        key = tl.load(threshold + group) + (found << HIGH)
    tl.store(threshold + group, key)
    if HIGH == 0:
        tied = tl.sum(tl.where(digits == found, number, 0.0), 0)
        tl.store(part + group, tl.minimum(tl.maximum(wanted / tl.maximum(tied, 1.0), 0.0), 1.0))
        tl.store(score + group, (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True))


def take(scores: Tensor, available: Tensor, amount: Tensor, *, portion: bool, over_ranks: bool) -> Cut:
    """`largest.take_largest` of float32 scores under a mask, for groups that are as long and follow each other."""
    scores, available = scores.contiguous(), available.contiguous()
    threshold, part = _take(scores, available, amount, portion, over_ranks)
    return Cut(scores, available, threshold, part)


@torch.library.custom_op(
    "segtrain::take_largest",
    mutates_args=(),
    schema="(Tensor scores, Tensor available, Tensor amount, bool portion, bool over_ranks) -> (Tensor, Tensor)",
)
def _take(scores: Tensor, available: Tensor, amount: Tensor, portion: bool, over_ranks: bool) -> tuple[Tensor, Tensor]:
    groups = amount.numel()
    length = scores.numel() // max(1, groups)
    score, part = _empty(scores, available, amount, portion, over_ranks)
    if not groups:
        return score, part
    missing, threshold = torch.empty_like(amount), torch.empty_like(amount, dtype=torch.int32)
    counts = torch.zeros(
        len(DIGITS), groups << max(width for _, width in DIGITS), dtype=torch.int32, device=amount.device
    )
    programs = max(1, min(triton.cdiv(length, BLOCK), _PROGRAMS // groups))
    with on_device_of(scores):
        for (high, width), number in zip(DIGITS, counts, strict=True):
            digit = {"HIGH": high, "WIDTH": width}
            count_kernel[programs * groups,](
                scores, available, threshold, number, length, programs, **digit, BLOCK=BLOCK, num_warps=WARPS
            )
            number = sum_over_ranks(number.long()) if over_ranks and world_size() > 1 else number
            cut_kernel[groups,](number, amount, missing, threshold, score, part, PORTION=portion, **digit)
    return score, part


@_take.register_fake
def _empty(scores: Tensor, available: Tensor, amount: Tensor, portion: bool, over_ranks: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(amount, dtype=scores.dtype), torch.empty_like(amount)
