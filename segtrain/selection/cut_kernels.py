"""Sums of what a cut takes, in Triton: one pass over the maps forward, and one that writes their slope.

Programs have fixed parts of each image, whose sums are added up in a fixed order, so two runs give the same bits.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: N803
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from segtrain.gpu_code import on_device_of
from segtrain.selection.radix import ordered

BLOCK = 1024
_PROGRAMS = 512  # all images together: as many as an A100 or an H100 has at a time
_NUMBERS = 6  # that are summed


@triton.jit
def taken(scores, available, at, inside, threshold, part):
    """The score of each entry, whether it is available, above the threshold or at it, and what is taken of it."""
    here = tl.load(available + at, inside, other=0) != 0
    score = tl.load(scores + at, inside, other=0.0)
    key = ordered(score)
    cut = ordered(threshold)
    above, tied = here & (key > cut), here & (key == cut)
    return score, here, above, tied, tl.where(above, 1.0, tl.where(tied, part, 0.0))


@triton.jit
def share_kernel(scores, available, threshold, part, share, length, BLOCK: tl.constexpr):
    """What is taken of each entry of a group."""
    blocks = tl.cdiv(length, BLOCK)
    group = tl.program_id(0) // blocks
    at = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    first = group.to(tl.int64) * length
    edge, portion = tl.load(threshold + group), tl.load(part + group)
    _, _, _, _, own = taken(scores + first, available + first, at, inside, edge, portion)
    tl.store(share + first + at, own, inside)


@triton.jit
def sums_kernel(
    x, y, scores, available, threshold, part, sums, length, programs, by_image,
    OWN_X: tl.constexpr, HAS_Y: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program's part of an image: numbers available, above and tied, Σ x, Σ share·x, Σ y, Σ share·y."""
    image = tl.program_id(0) // programs
    first = image.to(tl.int64) * length
    edge = tl.load(threshold + image * by_image)
    portion = tl.load(part + image * by_image).to(tl.float32)
    number = tl.zeros([BLOCK], tl.int32)
    higher = tl.zeros([BLOCK], tl.int32)
    equal = tl.zeros([BLOCK], tl.int32)
    of_x = tl.zeros([BLOCK], tl.float32)
    taken_of_x = tl.zeros([BLOCK], tl.float32)
    of_y = tl.zeros([BLOCK], tl.float32)
    taken_of_y = tl.zeros([BLOCK], tl.float32)
    for start in range(tl.program_id(0) % programs * BLOCK, length, BLOCK * programs):
        at = start + tl.arange(0, BLOCK)
        inside = at < length
        score, here, above, tied, share = taken(scores + first, available + first, at, inside, edge, portion)
        number += here.to(tl.int32)
        higher += above.to(tl.int32)
        equal += tied.to(tl.int32)
        if OWN_X:
            score = tl.load(x + first + at, inside, other=0.0)
        of_x += score
        taken_of_x += share * score
        if HAS_Y:
            other = tl.load(y + first + at, inside, other=0.0)
            of_y += other
            taken_of_y += share * other
    to = sums + tl.program_id(0).to(tl.int64) * 8
    tl.store(to, tl.sum(number, 0).to(tl.float64))
    tl.store(to + 1, tl.sum(higher, 0).to(tl.float64))
    tl.store(to + 2, tl.sum(equal, 0).to(tl.float64))
    tl.store(to + 3, tl.sum(of_x.to(tl.float64), 0))
    tl.store(to + 4, tl.sum(taken_of_x.to(tl.float64), 0))
    if HAS_Y:
        tl.store(to + 5, tl.sum(of_y.to(tl.float64), 0))
        tl.store(to + 6, tl.sum(taken_of_y.to(tl.float64), 0))


@triton.jit
def total_kernel(sums, part, total, taken_of_x, of_x, programs, by_image, HAS_Y: tl.constexpr, BLOCK: tl.constexpr):
    """The sums of an image from those of its programs: number available, Σ share, Σ x, Σ share·x, Σ y, Σ share·y."""
    image = tl.program_id(0)
    program = tl.arange(0, BLOCK)
    inside = program < programs
    own = sums + (image * programs + program).to(tl.int64) * 8
    to = total + image * 6
    tied = tl.sum(tl.load(own + 2, inside, other=0.0), 0)
    all_x = tl.sum(tl.load(own + 3, inside, other=0.0), 0)
    taken_x = tl.sum(tl.load(own + 4, inside, other=0.0), 0)
    tl.store(to, tl.sum(tl.load(own, inside, other=0.0), 0))
    tl.store(to + 1, tl.sum(tl.load(own + 1, inside, other=0.0), 0) + tied * tl.load(part + image * by_image))
    tl.store(to + 2, all_x)
    tl.store(to + 3, taken_x)
    if HAS_Y:
        tl.store(to + 4, tl.sum(tl.load(own + 5, inside, other=0.0), 0))
        tl.store(to + 5, tl.sum(tl.load(own + 6, inside, other=0.0), 0))
    else:
        tl.store(to + 4, 0.0)
        tl.store(to + 5, 0.0)
    tl.store(of_x + image, all_x.to(tl.float32))
    tl.store(taken_of_x + image, taken_x.to(tl.float32))


@triton.jit
def slope_kernel(
    slope_of_taken, slope_of_all, scores, available, threshold, part, slope, length, by_image,
    OF_TAKEN: tl.constexpr, OF_ALL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The slope of x: that of Σ x, and its share of that of Σ share·x."""
    blocks = tl.cdiv(length, BLOCK)
    image = tl.program_id(0) // blocks
    at = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    first = image.to(tl.int64) * length
    edge = tl.load(threshold + image * by_image)
    portion = tl.load(part + image * by_image).to(tl.float32)
    _, _, _, _, share = taken(scores + first, available + first, at, inside, edge, portion)
    own = tl.zeros([BLOCK], tl.float32)
    if OF_TAKEN:
        own += tl.where(share == 0, 0.0, share * tl.load(slope_of_taken))
    if OF_ALL:
        own += tl.load(slope_of_all)
    tl.store(slope + first + at, own, inside)


_CUT = "Tensor scores, Tensor available, Tensor threshold, Tensor part"


@torch.library.custom_op("segtrain::cut_share", mutates_args=(), schema=f"({_CUT}) -> Tensor")
def share(scores: Tensor, available: Tensor, threshold: Tensor, part: Tensor) -> Tensor:
    """What is taken of each entry of a `Cut`, float64 like the scores."""
    result = torch.empty_like(scores, dtype=torch.float64)
    groups = part.numel()
    if length := scores.numel() // max(1, groups):
        with on_device_of(scores):
            share_kernel[triton.cdiv(length, BLOCK) * groups,](
                scores, available, threshold, part, result, length, BLOCK=BLOCK
            )
    return result


@share.register_fake
def _(scores: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(scores, dtype=torch.float64)


@torch.library.custom_op(
    "segtrain::cut_sums", mutates_args=(), schema=f"(Tensor x, Tensor? y, {_CUT}) -> (Tensor, Tensor, Tensor)"
)
def sums(
    x: Tensor, y: Tensor | None, scores: Tensor, available: Tensor, threshold: Tensor, part: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ share·x, Σ x and the numbers of `CutSums`, of float32 maps like the scores."""
    taken_of_x, of_x, numbers = _by_group(x, y, (scores, available, threshold, part), part.numel())
    if part.numel() != 1:
        numbers = numbers.sum(0, keepdim=True)
        taken_of_x, of_x = numbers[:, 3].float(), numbers[:, 2].float()
    return taken_of_x.view(()), of_x.view(()), numbers[0]


@sums.register_fake
def _(x: Tensor, y: Tensor | None, *cut: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(()), x.new_empty(()), cut[-1].new_empty(_NUMBERS)


@torch.library.custom_op("segtrain::cut_taken_of_images", mutates_args=(), schema=f"({_CUT}) -> Tensor")
def taken_of_images(scores: Tensor, available: Tensor, threshold: Tensor, part: Tensor) -> Tensor:
    """Σ share of each image of a `Cut`, float64 [B]."""
    _, _, numbers = _by_group(scores, None, (scores, available, threshold, part), scores.shape[0])
    return numbers[:, 1].clone()


@taken_of_images.register_fake
def _(scores: Tensor, available: Tensor, threshold: Tensor, part: Tensor) -> Tensor:
    return part.new_empty(scores.shape[0])


def _by_group(x: Tensor, y: Tensor | None, cut: tuple[Tensor, ...], groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Σ share·x and Σ x of each group, float32 [G], and its six numbers, float64 [G, 6]."""
    scores, *_, part = cut
    taken_of_x, of_x, numbers = x.new_empty(groups), x.new_empty(groups), part.new_empty(groups, _NUMBERS)
    length = scores.numel() // max(1, groups)
    if not length:
        return taken_of_x.zero_(), of_x.zero_(), numbers.zero_()
    by_image = int(part.numel() > 1)
    programs = max(1, min(triton.cdiv(length, BLOCK), _PROGRAMS // groups))
    partial = part.new_empty(groups, programs, 8)
    with on_device_of(x):
        sums_kernel[programs * groups,](
            *(x, x if y is None else y, *cut, partial, length, programs, by_image),
            OWN_X=x.data_ptr() != scores.data_ptr(),
            HAS_Y=y is not None,
            BLOCK=BLOCK,
        )
        total_kernel[groups,](
            *(partial, part, numbers, taken_of_x, of_x, programs, by_image),
            HAS_Y=y is not None,
            BLOCK=triton.next_power_of_2(programs),
        )
    return taken_of_x, of_x, numbers


@torch.library.custom_op(
    "segtrain::cut_sums_backward",
    mutates_args=(),
    schema=f"(Tensor? slope_of_taken, Tensor? slope_of_all, {_CUT}) -> Tensor",
)
def _slope(
    slope_of_taken: Tensor | None,
    slope_of_all: Tensor | None,
    scores: Tensor,
    available: Tensor,
    threshold: Tensor,
    part: Tensor,
) -> Tensor:
    slope = torch.empty_like(scores)
    groups = part.numel()
    if length := scores.numel() // max(1, groups):
        with on_device_of(scores):
            slope_kernel[triton.cdiv(length, BLOCK) * groups,](
                scores if slope_of_taken is None else slope_of_taken,
                scores if slope_of_all is None else slope_of_all,
                *(scores, available, threshold, part, slope, length, int(groups > 1)),
                OF_TAKEN=slope_of_taken is not None,
                OF_ALL=slope_of_all is not None,
                BLOCK=BLOCK,
            )
    return slope


@_slope.register_fake
def _(slope_of_taken: Tensor | None, slope_of_all: Tensor | None, scores: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(scores)


def _keep_cut(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[2:])
    ctx.set_materialize_grads(False)


def _slope_of_x(ctx: Any, of_taken: Tensor | None, of_all: Tensor | None, _: Tensor) -> tuple[Tensor | None, ...]:
    nothing = of_taken is None and of_all is None
    return None if nothing else _slope(of_taken, of_all, *ctx.saved_tensors), *[None] * 5


def _slope_of_slopes(ctx: Any, slope: Tensor | None) -> tuple[Tensor | None, ...]:
    """The slope of x is linear in those of the sums, by what these are linear in x by."""
    if slope is None:
        return (None,) * 6
    slopes = sums(slope.contiguous(), None, *ctx.saved_tensors)[:2]
    return *[one if needed else None for one, needed in zip(slopes, ctx.needs_input_grad)], *[None] * 4  # noqa: B905


sums.register_autograd(_slope_of_x, setup_context=_keep_cut)
_slope.register_autograd(_slope_of_slopes, setup_context=_keep_cut)
