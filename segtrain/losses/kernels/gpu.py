"""Cross entropy on a GPU, in Triton: one pass over the logits forward, one backward.

A program holds some pixels and meets their classes in chunks. Where pixels are neighbours in memory, a thread holds all
classes of its own pixels, so nothing is exchanged between threads; where classes are, a few threads share a pixel.
Loads are masked by bounds only: a mask that depends on data would make each of them a scalar.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: D103, N803, SIM108
from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from segtrain.losses.kernels.maps import PixelMap
from segtrain.upsampling import Logits, Taps, Upsampled, taps

WARPS = 4


@triton.jit
def between(left, right, part, here):
    """The interpolation of what two tiles of pointers point to."""
    return (1 - part) * tl.load(left, here, other=0.0).to(tl.float32) + part * tl.load(right, here, other=0.0).to(
        tl.float32
    )


@triton.jit
def forward_kernel(
    logits, target, weight, mass, value, count, hardness, valid, peak, log_total,
    row, row_part, column, column_part, low_height, low_width, width,
    pixels, classes, by_image, by_class, by_pixel, ignore_index, smoothing,
    WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, UPSAMPLED: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    at = image * pixels + pixel
    label = tl.load(target + at, inside, other=0).to(tl.int64)
    base = logits + image * by_image
    if UPSAMPLED:
        y0 = tl.load(row + pixel // width, inside, other=0)
        x0 = tl.load(column + pixel % width, inside, other=0)
        down = tl.load(row_part + pixel // width, inside, other=0.0)[None, :]
        right = tl.load(column_part + pixel % width, inside, other=0.0)[None, :]
        below = tl.minimum(y0 + 1, low_height - 1) * low_width
        above = y0 * low_width
        x1 = tl.minimum(x0 + 1, low_width - 1)
        first = base + (above + x0)[None, :].to(tl.int64) * by_pixel
        second = base + (above + x1)[None, :].to(tl.int64) * by_pixel
        third = base + (below + x0)[None, :].to(tl.int64) * by_pixel
        fourth = base + (below + x1)[None, :].to(tl.int64) * by_pixel
    else:
        first = base + pixel[None, :].to(tl.int64) * by_pixel
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    anchor = tl.zeros([BLOCK], tl.float32)  # top, but never -inf: what is masked out is in no chunk more than 0
    total = tl.zeros([BLOCK], tl.float32)
    x_label = tl.zeros([BLOCK], tl.float32)
    others = tl.zeros([BLOCK], tl.float32)
    seen = tl.zeros([BLOCK], tl.float32)
    for start in range(0, classes, CHUNK):
        c = start + tl.arange(0, CHUNK)
        here = (c < classes)[:, None] & inside[None, :]
        at_class = c[:, None].to(tl.int64) * by_class
        if UPSAMPLED:
            upper = between(first + at_class, second + at_class, right, here)
            lower = between(third + at_class, fourth + at_class, right, here)
            x = tl.where(here, (1 - down) * upper + down * lower, float("-inf"))
        else:
            x = tl.load(first + at_class, here, other=float("-inf")).to(tl.float32)
        x_label += tl.sum(tl.where(c[:, None] == label[None, :], x, 0.0), 0)
        top = tl.maximum(top, tl.max(x, 0))
        before = anchor
        anchor = tl.where(top == float("-inf"), 0.0, top)
        total = tl.where(total == 0, 0.0, total * tl.exp(before - anchor)) + tl.sum(tl.exp(x - anchor[None, :]), 0)
        if SMOOTHED:  # Σ weight · (x - anchor)
            if WEIGHTED:
                w = tl.load(weight + c, c < classes, other=0.0)
            else:
                w = tl.where(c < classes, 1.0, 0.0)
            others += seen * (before - anchor) + tl.sum(tl.where(here, w[:, None] * (x - anchor[None, :]), 0.0), 0)
            seen += tl.sum(w, 0)
    named = label != ignore_index
    usable = named & (label >= 0) & (label < classes)
    counts = tl.where(named, 1.0, 0.0)
    if WEIGHTED:
        counts = tl.where(usable, tl.load(weight + tl.where(usable, label, 0), inside, other=0.0), counts)
    is_valid = named & (counts > 0)
    log_sum = tl.where(named & (usable == 0), float("nan"), tl.log(total))
    surprise = tl.where(is_valid, log_sum - (x_label - top), 0.0)
    loss = surprise * counts
    if SMOOTHED:
        spread_out = (log_sum * tl.load(mass) - others) / classes
        loss = tl.where(is_valid, (1 - smoothing) * loss + smoothing * spread_out, 0.0)
    tl.store(value + at, loss, inside)
    tl.store(count + at, counts, inside)
    tl.store(hardness + at, surprise, inside)
    tl.store(valid + at, is_valid, inside)
    tl.store(peak + at, top, inside)
    tl.store(log_total + at, log_sum, inside)


@triton.jit
def backward_kernel(
    logits, target, weight, mass, slope, count, peak, log_total, gradient,
    pixels, classes, by_image, by_class, by_pixel, smoothing,
    WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    at = image * pixels + pixel
    offset = image * by_image + pixel[None, :].to(tl.int64) * by_pixel
    counts = tl.load(count + at, inside, other=0.0)
    share = tl.where(counts == 0, 0.0, tl.load(slope + at, inside, other=0.0))
    of_label = counts
    of_all = counts
    if SMOOTHED:
        of_label = (1 - smoothing) * counts
        of_all = of_label + smoothing * tl.load(mass) / classes
    if tl.sum((share != 0).to(tl.int32), 0) == 0:  # nothing here is mined: the logits are not read
        for first in range(0, classes, CHUNK):
            c = first + tl.arange(0, CHUNK)
            here = (c < classes)[:, None] & inside[None, :]
            nothing = tl.zeros([CHUNK, BLOCK], tl.float32).to(gradient.dtype.element_ty)
            tl.store(gradient + offset + c[:, None].to(tl.int64) * by_class, nothing, here)
    else:
        label = tl.load(target + at, inside, other=0).to(tl.int64)
        top = tl.load(peak + at, inside, other=0.0)
        log_sum = tl.load(log_total + at, inside, other=0.0)
        for first in range(0, classes, CHUNK):
            c = first + tl.arange(0, CHUNK)
            here = (c < classes)[:, None] & inside[None, :]
            where = offset + c[:, None].to(tl.int64) * by_class
            x = tl.load(logits + where, here, other=0.0).to(tl.float32)
            slopes = tl.exp((x - top[None, :]) - log_sum[None, :]) * of_all[None, :]
            slopes -= tl.where(c[:, None] == label[None, :], of_label[None, :], 0.0)
            if SMOOTHED:
                if WEIGHTED:
                    slopes -= smoothing / classes * tl.load(weight + c, c < classes, other=0.0)[:, None]
                else:
                    slopes -= smoothing / classes
            slopes = tl.where((share == 0)[None, :], 0.0, slopes * share[None, :])
            tl.store(gradient + where, slopes.to(gradient.dtype.element_ty), here)


@triton.jit
def backward_of_cells_kernel(
    logits, target, weight, mass, slope, count, peak, log_total, corners,
    row_part, column_part, row_begin, column_begin, low_height, low_width, height, width, plane, most_y, most_x,
    pixels, classes, by_image, by_class, by_pixel, smoothing,
    WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """A thread has a cell: the pixels between the same four logits. So no two threads add to one number."""
    image = tl.program_id(1).to(tl.int64)
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = cell < pixels
    y0, x0 = cell // low_width, cell % low_width
    below, x1 = tl.minimum(y0 + 1, low_height - 1) * low_width, tl.minimum(x0 + 1, low_width - 1)
    top_left = (y0 * low_width + x0)[None, :].to(tl.int64)
    first_y = tl.load(row_begin + y0, inside, other=0).to(tl.int32)
    last_y = tl.load(row_begin + y0 + 1, inside, other=0).to(tl.int32)
    first_x = tl.load(column_begin + x0, inside, other=0).to(tl.int32)
    last_x = tl.load(column_begin + x0 + 1, inside, other=0).to(tl.int32)
    base = logits + image * by_image
    for start in range(0, classes, CHUNK):
        c = start + tl.arange(0, CHUNK)
        here = (c < classes)[:, None] & inside[None, :]
        at = base + c[:, None].to(tl.int64) * by_class
        a = tl.load(at + top_left * by_pixel, here, other=0.0).to(tl.float32)
        b = tl.load(at + (y0 * low_width + x1)[None, :].to(tl.int64) * by_pixel, here, other=0.0).to(tl.float32)
        d = tl.load(at + (below + x0)[None, :].to(tl.int64) * by_pixel, here, other=0.0).to(tl.float32)
        e = tl.load(at + (below + x1)[None, :].to(tl.int64) * by_pixel, here, other=0.0).to(tl.float32)
        of_a = tl.zeros([CHUNK, BLOCK], tl.float32)
        of_b = tl.zeros([CHUNK, BLOCK], tl.float32)
        of_d = tl.zeros([CHUNK, BLOCK], tl.float32)
        of_e = tl.zeros([CHUNK, BLOCK], tl.float32)
        for dy in range(most_y):
            for dx in range(most_x):
                y = first_y + dy
                x = first_x + dx
                active = inside & (y < last_y) & (x < last_x)
                pixel = image * height * width + y.to(tl.int64) * width + x
                counts = tl.load(count + pixel, active, other=0.0)
                share = tl.where(counts == 0, 0.0, tl.load(slope + pixel, active, other=0.0))
                if tl.sum((share != 0).to(tl.int32), 0) > 0:
                    of_label = counts
                    of_all = counts
                    if SMOOTHED:
                        of_label = (1 - smoothing) * counts
                        of_all = of_label + smoothing * tl.load(mass) / classes
                    label = tl.load(target + pixel, active, other=0).to(tl.int64)
                    peaks = tl.load(peak + pixel, active, other=0.0)[None, :]
                    log_sum = tl.load(log_total + pixel, active, other=0.0)[None, :]
                    down = tl.load(row_part + y, active, other=0.0)[None, :]
                    right = tl.load(column_part + x, active, other=0.0)[None, :]
                    score = (1 - down) * ((1 - right) * a + right * b) + down * ((1 - right) * d + right * e)
                    slopes = tl.exp((score - peaks) - log_sum) * of_all[None, :]
                    slopes -= tl.where(c[:, None] == label[None, :], of_label[None, :], 0.0)
                    if SMOOTHED:
                        if WEIGHTED:
                            slopes -= smoothing / classes * tl.load(weight + c, c < classes, other=0.0)[:, None]
                        else:
                            slopes -= smoothing / classes
                    slopes = tl.where((share == 0)[None, :], 0.0, slopes * share[None, :])
                    of_a += (1 - down) * (1 - right) * slopes
                    of_b += (1 - down) * right * slopes
                    of_d += down * (1 - right) * slopes
                    of_e += down * right * slopes
        out = corners + image * classes * pixels + c[:, None].to(tl.int64) * pixels + top_left
        tl.store(out, of_a, here)
        tl.store(out + plane, of_b, here)
        tl.store(out + 2 * plane, of_d, here)
        tl.store(out + 3 * plane, of_e, here)


def cross_entropy(
    logits: Logits, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap:
    """Cross entropy of labels [B, H, W] for logits [B, C, H, W] below float64; `smoothing` goes to all classes."""
    low, grid, _, align_corners = logits if isinstance(logits, Upsampled) else (logits, (0, 0), None, False)
    if not (low.is_contiguous() or low.is_contiguous(memory_format=torch.channels_last)):
        low = low.contiguous()
    value, count, hardness, valid, _, _ = _forward(
        low, target.contiguous(), weight, ignore_index, smoothing, *grid, align_corners
    )
    return PixelMap(value, count.detach(), hardness.detach(), valid)


def meta(logits: Tensor, upsampled: bool = False) -> dict[str, int]:
    """How a program sees logits: pixels and classes of a tile, such that the neighbours in memory are in one thread."""
    if upsampled:  # a pixel per thread, and four logits for each of its classes
        return {"BLOCK": WARPS * 32, "CHUNK": 8}
    if logits.is_contiguous():
        return {"BLOCK": WARPS * 32 * (16 // logits.element_size()), "CHUNK": 8}
    chunk = min(256, triton.next_power_of_2(logits.shape[1]))
    return {"BLOCK": max(8, 4096 // chunk), "CHUNK": chunk}


def _launch(
    kernel: Any,
    logits: Tensor,
    pixels: int,
    pointers: tuple[Tensor, ...],
    numbers: tuple[float, ...],
    upsampled: bool,
    **flags: bool,
) -> None:
    images, classes, height, width = logits.shape
    near = logits.is_contiguous()
    strides = (logits.stride(0), height * width, 1) if near else (logits.stride(0), 1, classes)
    tile = meta(logits, upsampled)
    if pixels and images:
        places = (triton.cdiv(pixels, tile["BLOCK"]), images)
        kernel[places](*pointers, pixels, classes, *strides, *numbers, **flags, **tile, num_warps=WARPS)


def _mass(logits: Tensor, weight: Tensor | None) -> Tensor:
    return logits.new_full((), logits.shape[1], dtype=torch.float32) if weight is None else weight.sum()


def _taps(logits: Tensor, target: Tensor, grid: tuple[int, int], align_corners: bool) -> tuple[Taps, Taps]:
    rows, columns = (
        taps(low, full, size, align_corners, logits)
        for low, full, size in zip(logits.shape[2:], grid, target.shape[1:], strict=True)
    )
    return rows, columns


_INPUTS = "Tensor logits, Tensor target, Tensor? weight, int ignore_index, float smoothing"
_UPSAMPLING = "int grid_height, int grid_width, bool align_corners"


@torch.library.custom_op(
    "segtrain::cross_entropy",
    mutates_args=(),
    schema=f"({_INPUTS}, {_UPSAMPLING}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _forward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    grid_height: int,
    grid_width: int,
    align_corners: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Without a grid the logits are those of the pixels, else what is interpolated to it."""
    maps: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    maps = _empty(logits, target, weight, ignore_index, smoothing, grid_height, grid_width, align_corners)
    sources: tuple[Any, ...] = (target, target, target, target, 0, 0, 0)
    if grid_height:
        rows, columns = _taps(logits, target, (grid_height, grid_width), align_corners)
        sources = (rows.first, rows.part, columns.first, columns.part, *logits.shape[2:], target.shape[2])
    pointers = (logits, target, target if weight is None else weight, _mass(logits, weight), *maps, *sources)
    upsampled = grid_height > 0
    flags = {"WEIGHTED": weight is not None, "SMOOTHED": smoothing > 0, "UPSAMPLED": upsampled}
    _launch(forward_kernel, logits, target[:1].numel(), pointers, (ignore_index, smoothing), upsampled, **flags)
    return maps


@_forward.register_fake
def _empty(logits: Tensor, target: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    value, count, hardness, peak, log_total = (torch.empty_like(target, dtype=torch.float32) for _ in range(5))
    return value, count, hardness, torch.empty_like(target, dtype=torch.bool), peak, log_total


@torch.library.custom_op(
    "segtrain::cross_entropy_backward",
    mutates_args=(),
    schema=f"(Tensor logits, Tensor target, Tensor? weight, float smoothing, {_UPSAMPLING}, Tensor slope, "
    "Tensor count, Tensor peak, Tensor log_total) -> Tensor",
)
def _backward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    smoothing: float,
    grid_height: int,
    grid_width: int,
    align_corners: bool,
    slope: Tensor,
    count: Tensor,
    peak: Tensor,
    log_total: Tensor,
) -> Tensor:
    gradient = torch.empty_like(logits)
    mass = _mass(logits, weight)
    given = (logits, target, target if weight is None else weight, mass, slope, count, peak, log_total)
    flags = {"WEIGHTED": weight is not None, "SMOOTHED": smoothing > 0}
    pixels = logits[0, 0].numel() if len(logits) else 0
    if not grid_height:
        _launch(backward_kernel, logits, pixels, (*given, gradient), (smoothing,), False, **flags)
        return gradient
    rows, columns = _taps(logits, target, (grid_height, grid_width), align_corners)
    begins = [cells(one.first, low) for one, low in zip((rows, columns), logits.shape[2:], strict=True)]
    most = [
        most_in_a_cell(low, full, size, align_corners)
        for low, full, size in zip(logits.shape[2:], (grid_height, grid_width), target.shape[1:], strict=True)
    ]
    corners = logits.new_empty(4, *logits.shape, dtype=torch.float32)  # what each cell adds to its four logits
    sources = (rows.part, columns.part, *begins, *logits.shape[2:], *target.shape[1:], corners[0].numel(), *most)
    _launch(backward_of_cells_kernel, logits, pixels, (*given, corners, *sources), (smoothing,), True, **flags)
    upper, lower = (one + _onwards(other, 3) for one, other in (corners[:2], corners[2:]))
    return gradient.copy_(upper + _onwards(lower, 2))


def _onwards(corner: Tensor, dim: int) -> Tensor:
    """What cells add to the next logit along `dim`, at its place; the last cell's is its own."""
    moved, length = torch.zeros_like(corner), corner.shape[dim]
    moved.narrow(dim, 1, length - 1).copy_(corner.narrow(dim, 0, length - 1))
    moved.narrow(dim, length - 1, 1).add_(corner.narrow(dim, length - 1, 1))
    return moved


def cells(first: Tensor, low: int) -> Tensor:
    """Where the pixels begin whose first neighbour is 0, 1, …; int64 [low + 1]."""
    return torch.searchsorted(first, torch.arange(low + 1, device=first.device))


def most_in_a_cell(low: int, full: int, size: int, align_corners: bool) -> int:
    """No cell has more pixels along an axis."""
    scale = (low - 1) / max(full - 1, 1) if align_corners else low / full / 1.5
    return min(size, math.ceil(1 / scale) + 1) if scale else size


@_backward.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, target, weight, _, ctx.smoothing, *ctx.upsampling = inputs
    _, count, _, _, peak, log_total = output
    ctx.save_for_backward(logits, target, weight, count, peak, log_total)


def _slope(ctx: Any, slope: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    logits, target, weight, *maps = ctx.saved_tensors
    gradient = _backward(logits, target, weight, ctx.smoothing, *ctx.upsampling, slope.contiguous(), *maps)
    return (gradient, *[None] * 7)


_forward.register_autograd(_slope, setup_context=_keep)
