"""Cross entropy on a GPU, in Triton: one pass over the logits forward, one backward.

A program holds some pixels and meets their classes in chunks. Where pixels are neighbours in memory, a thread holds all
classes of its own pixels, so nothing is exchanged between threads; where classes are, a few threads share a pixel.
Loads are masked by bounds only: a mask that depends on data would make each of them a scalar.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: D103, N803, SIM108
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from segtrain.losses.kernels.maps import PixelMap

WARPS = 4


@triton.jit
def forward_kernel(
    logits, target, weight, mass, value, count, hardness, valid, peak, log_total,
    pixels, classes, by_image, by_class, by_pixel, ignore_index, smoothing,
    WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    at = image * pixels + pixel
    label = tl.load(target + at, inside, other=0).to(tl.int64)
    base = logits + image * by_image + pixel[None, :].to(tl.int64) * by_pixel
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    anchor = tl.zeros([BLOCK], tl.float32)  # top, but never -inf: what is masked out is in no chunk more than 0
    total = tl.zeros([BLOCK], tl.float32)
    x_label = tl.zeros([BLOCK], tl.float32)
    others = tl.zeros([BLOCK], tl.float32)
    seen = tl.zeros([BLOCK], tl.float32)
    for first in range(0, classes, CHUNK):
        c = first + tl.arange(0, CHUNK)
        here = (c < classes)[:, None] & inside[None, :]
        x = tl.load(base + c[:, None].to(tl.int64) * by_class, here, other=float("-inf")).to(tl.float32)
        x_label += tl.sum(tl.where(c[:, None] == label[None, :], x, 0.0), 0)
        top = tl.maximum(top, tl.max(x, 0))
        below = anchor
        anchor = tl.where(top == float("-inf"), 0.0, top)
        total = tl.where(total == 0, 0.0, total * tl.exp(below - anchor)) + tl.sum(tl.exp(x - anchor[None, :]), 0)
        if SMOOTHED:  # Σ weight · (x - anchor)
            if WEIGHTED:
                w = tl.load(weight + c, c < classes, other=0.0)
            else:
                w = tl.where(c < classes, 1.0, 0.0)
            others += seen * (below - anchor) + tl.sum(tl.where(here, w[:, None] * (x - anchor[None, :]), 0.0), 0)
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


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap:
    """Cross entropy of labels [B, H, W] for logits [B, C, H, W] below float64; `smoothing` goes to all classes."""
    if not (logits.is_contiguous() or logits.is_contiguous(memory_format=torch.channels_last)):
        logits = logits.contiguous()
    value, count, hardness, valid, _, _ = _forward(logits, target.contiguous(), weight, ignore_index, smoothing)
    return PixelMap(value, count.detach(), hardness.detach(), valid)


def meta(logits: Tensor) -> dict[str, int]:
    """How a program sees logits: pixels and classes of a tile, such that the neighbours in memory are in one thread."""
    if logits.is_contiguous():
        return {"BLOCK": WARPS * 32 * (16 // logits.element_size()), "CHUNK": 8}
    chunk = min(256, triton.next_power_of_2(logits.shape[1]))
    return {"BLOCK": max(8, 4096 // chunk), "CHUNK": chunk}


def _launch(
    kernel: Any, logits: Tensor, pointers: tuple[Tensor, ...], numbers: tuple[float, ...], weight: Tensor | None
) -> None:
    images, classes, height, width = logits.shape
    pixels = height * width
    strides = (logits.stride(0), pixels, 1) if logits.is_contiguous() else (logits.stride(0), 1, classes)
    tile = meta(logits)
    grid = (triton.cdiv(pixels, tile["BLOCK"]), images)
    if pixels and images:
        flags = {"WEIGHTED": weight is not None, "SMOOTHED": numbers[-1] > 0}
        kernel[grid](*pointers, pixels, classes, *strides, *numbers, **flags, **tile, num_warps=WARPS)


def _mass(logits: Tensor, weight: Tensor | None) -> Tensor:
    return logits.new_full((), logits.shape[1], dtype=torch.float32) if weight is None else weight.sum()


_SCHEMA = "(Tensor logits, Tensor target, Tensor? weight, int ignore_index, float smoothing)"


@torch.library.custom_op(
    "segtrain::cross_entropy", mutates_args=(), schema=f"{_SCHEMA} -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
def _forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    maps: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    maps = _empty(logits, target, weight, ignore_index, smoothing)
    pointers = (logits, target, target if weight is None else weight, _mass(logits, weight), *maps)
    _launch(forward_kernel, logits, pointers, (ignore_index, smoothing), weight)
    return maps


@_forward.register_fake
def _empty(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    value, count, hardness, peak, log_total = (torch.empty_like(target, dtype=torch.float32) for _ in range(5))
    return value, count, hardness, torch.empty_like(target, dtype=torch.bool), peak, log_total


@torch.library.custom_op(
    "segtrain::cross_entropy_backward",
    mutates_args=(),
    schema="(Tensor logits, Tensor target, Tensor? weight, float smoothing, Tensor slope, Tensor count, Tensor peak, "
    "Tensor log_total) -> Tensor",
)
def _backward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    smoothing: float,
    slope: Tensor,
    count: Tensor,
    peak: Tensor,
    log_total: Tensor,
) -> Tensor:
    gradient = torch.empty_like(logits)
    mass = _mass(logits, weight)
    pointers = (logits, target, target if weight is None else weight, mass, slope, count, peak, log_total, gradient)
    _launch(backward_kernel, logits, pointers, (smoothing,), weight)
    return gradient


@_backward.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, target, weight, _, ctx.smoothing = inputs
    _, count, _, _, peak, log_total = output
    ctx.save_for_backward(logits, target, weight, count, peak, log_total)


def _slope(ctx: Any, slope: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None, None]:
    logits, target, weight, count, peak, log_total = ctx.saved_tensors
    gradient = _backward(logits, target, weight, ctx.smoothing, slope.contiguous(), count, peak, log_total)
    return gradient, None, None, None, None


_forward.register_autograd(_slope, setup_context=_keep)
