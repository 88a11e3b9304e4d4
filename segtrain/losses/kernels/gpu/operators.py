"""The kernels as an operator of torch, so that autograd, torch.compile and fake tensors know it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from segtrain.gpu_code import on_device_of
from segtrain.losses.kernels import binary, blocks
from segtrain.losses.kernels.derivatives import differentiable
from segtrain.losses.kernels.gpu.kernels import backward_kernel, backward_of_cells_kernel, forward_kernel
from segtrain.losses.kernels.maps import PixelMap
from segtrain.upsampling import Logits, Upsampled

_Maps = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def cross_entropy(
    logits: Logits, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap:
    """Cross entropy of labels [B, H, W] for logits [B, C, H, W] below float64; `smoothing` goes to all classes."""
    return _map(logits, target, weight, ignore_index, smoothing, sigmoid=False)


def bce_with_logits(
    logits: Logits, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap:
    """Each class of labels [B, H, W] against the rest (one channel: labels 0 and 1) for logits [B, C, H, W]."""
    return _map(logits, target, weight, ignore_index, smoothing, sigmoid=True)


def _map(
    logits: Logits, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, *, sigmoid: bool
) -> PixelMap:
    low, grid, _, align_corners = logits if isinstance(logits, Upsampled) else (logits, (0, 0), None, False)
    if not (low.is_contiguous() or low.is_contiguous(memory_format=torch.channels_last)):
        low = low.contiguous()
    value, count, hardness, valid, _, _ = _forward(
        low, target.contiguous(), weight, ignore_index, smoothing, sigmoid, *grid, align_corners
    )
    plain = not (sigmoid or smoothing or weight is not None)
    return PixelMap(value, count.detach(), value.detach() if plain else hardness.detach(), valid)


def tile(logits: Tensor, upsampled: bool = False, backward: bool = False) -> dict[str, int]:
    """How a program sees logits: BLOCK pixels and CHUNK classes at a time, in tiles whose last axis goes along memory.

    That axis has VECTOR pixels or LANES classes; the other of the two is 1.
    ALIGNED divides the distance of images, and that of classes, or of pixels where classes are LAST in memory.
    """
    if upsampled and backward:  # a cell per thread, and four logits for each of its classes
        return {"BLOCK": 32, "CHUNK": 4, "num_warps": 1}
    _, classes, height, width = logits.shape
    last = not logits.is_contiguous()
    vector, aligned = 16 // logits.element_size(), math.gcd(classes if last else height * width, 16)
    shape = {"VECTOR": 1, "LANES": 1, "num_warps": 4}
    if upsampled:  # a pixel per thread, which takes neighbours in memory only if it gets them at once
        last &= aligned >= vector
        shape |= {"BLOCK": 128, "CHUNK": vector if last else 8}
    elif last:  # eight classes per thread, or less where what is written must fill whole sectors
        # more than 128 pixels, one per thread, would have their labels and maps change hands in shared memory
        chunk = min(256, triton.next_power_of_2(classes))
        threads = min(32, max(1, chunk // 2 if backward else chunk // 8))
        shape |= {"BLOCK": min(128, 1024 // chunk), "CHUNK": chunk, "LANES": min(chunk, threads * min(vector, aligned))}
    else:
        shape |= {"BLOCK": 128 * vector, "CHUNK": 32 // vector, "VECTOR": vector}
    return shape | {"ALIGNED": 1 if upsampled and not last else aligned, "LAST": int(last)}


_INPUTS = "Tensor logits, Tensor target, Tensor? weight, int ignore_index, float smoothing, bool sigmoid"
_UPSAMPLING = "int grid_height, int grid_width, bool align_corners"


@torch.library.custom_op(
    "segtrain::pixel_loss",
    mutates_args=(),
    schema=f"({_INPUTS}, {_UPSAMPLING}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _forward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    sigmoid: bool,
    grid_height: int,
    grid_width: int,
    align_corners: bool,
) -> _Maps:
    """Without a grid the logits are those of the pixels, else what is interpolated to it."""
    maps: _Maps = _empty(logits, target, weight, ignore_index, smoothing, sigmoid, grid_height)
    grid = (grid_height, grid_width) if grid_height else None
    shape = tile(logits, grid is not None)
    programs = target.shape[0] * triton.cdiv(target[:1].numel(), shape["BLOCK"])
    if programs:
        with on_device_of(logits):
            forward_kernel[programs,](
                *(logits, target, target if weight is None else weight, _mass(logits, weight, smoothing), *maps),
                *_numbers(logits, target, ignore_index, smoothing, sigmoid),
                *(target.shape[2], *_scales(logits, grid, align_corners)),
                **_flags(weight, smoothing, sigmoid),
                UPSAMPLED=grid is not None,
                **shape,
            )
    return maps


@_forward.register_fake
def _empty(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    sigmoid: bool,
    grid_height: int,
    *_: Any,
) -> _Maps:
    """Value, count, hardness, valid, peak and log-total; what is another of them or is not needed is empty.

    The largest of some logits is one of them, so it fits in their type.
    """
    value, count = (torch.empty_like(target, dtype=torch.float32) for _ in range(2))
    hardness = torch.empty_like(
        target if sigmoid or smoothing > 0 or weight is not None else target[:0], dtype=torch.float32
    )
    kept = target[:0] if sigmoid else target
    peak = torch.empty_like(kept, dtype=torch.float32 if grid_height else logits.dtype)
    log_total = torch.empty_like(kept, dtype=torch.float32)
    return value, count, hardness, torch.empty_like(target, dtype=torch.bool), peak, log_total


@torch.library.custom_op(
    "segtrain::pixel_loss_backward",
    mutates_args=(),
    schema=f"({_INPUTS}, {_UPSAMPLING}, Tensor slope, Tensor peak, Tensor log_total) -> Tensor",
)
def _backward(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    sigmoid: bool,
    grid_height: int,
    grid_width: int,
    align_corners: bool,
    slope: Tensor,
    peak: Tensor,
    log_total: Tensor,
) -> Tensor:
    grid = (grid_height, grid_width) if grid_height else None
    gradient = torch.empty_like(logits, dtype=logits.dtype if grid is None else torch.float32)
    shape = tile(logits, grid is not None, backward=True)
    images, classes, height, width = logits.shape
    weights = (target if weight is None else weight, _mass(logits, weight, smoothing))
    given = (logits, target, *weights, slope, peak, log_total)
    numbers = _numbers(logits, target, ignore_index, smoothing, sigmoid)
    flags = _flags(weight, smoothing, sigmoid)
    with on_device_of(logits):
        if grid is None:
            if programs := images * triton.cdiv(height * width, shape["BLOCK"]):
                backward_kernel[programs,](*given, gradient, *numbers, **flags, **shape)
            return gradient
        for odd_y, odd_x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            cells = ((height - odd_y + 1) // 2) * ((width - odd_x + 1) // 2)
            if programs := images * triton.cdiv(cells, shape["BLOCK"]):
                backward_of_cells_kernel[programs, triton.cdiv(classes, shape["CHUNK"])](
                    *(*given, gradient, *numbers, odd_y, odd_x, *target.shape[1:]),
                    *_scales(logits, grid, align_corners),
                    **flags,
                    **shape,
                )
    return gradient.to(logits.dtype)


@_backward.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _mass(logits: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    """Σ of the class weights; without smoothing nobody reads it."""
    if not smoothing:
        return logits
    return logits.new_full((), logits.shape[1], dtype=torch.float32) if weight is None else weight.sum()


def _numbers(
    logits: Tensor, target: Tensor, ignore_index: int, smoothing: float, sigmoid: bool
) -> tuple[int | float, ...]:
    _, classes, height, width = logits.shape
    by_class, by_pixel = (height * width, 1) if logits.is_contiguous() else (1, classes)
    known = max(classes, 2) if sigmoid else classes
    by_image = classes * height * width  # the stride of a single image may be any number
    return target[:1].numel(), classes, known, by_image, by_class, by_pixel, ignore_index, smoothing


def _flags(weight: Tensor | None, smoothing: float, sigmoid: bool) -> dict[str, bool]:
    return {"SIGMOID": sigmoid, "WEIGHTED": weight is not None, "SMOOTHED": smoothing > 0}


def _scales(logits: Tensor, grid: Sequence[int] | None, align_corners: bool) -> tuple[int | float, ...]:
    """Height and width of the logits, pixels in units of them, and what of a pixel is before its middle."""
    low = logits.shape[2:]
    if grid is None:
        return *low, 0.0, 0.0, 0.0
    if align_corners:
        scales = [(one - 1) / max(full - 1, 1) for one, full in zip(low, grid, strict=True)]
        return *low, *scales, 0.0
    return *low, *(one / full for one, full in zip(low, grid, strict=True)), 0.5


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, target, weight, *ctx.options = inputs
    ctx.save_for_backward(logits, target, weight, *output[4:])
    ctx.set_materialize_grads(False)  # of the other maps they would be maps of zeros


def _plain_values(logits: Tensor, target: Tensor, *options: Any) -> Tensor:
    """The values that the operator gives for the same inputs."""
    *shared, sigmoid, grid_height, grid_width, align_corners = options
    loss = binary.plain_values if sigmoid else blocks.plain_values
    upsampling = ((grid_height, grid_width), target.shape[1:], align_corners) if grid_height else ()
    return loss(logits, target, *shared, *upsampling)


@differentiable(_plain_values)
def _gradient(ctx: Any, slope: Tensor) -> Tensor:
    logits, target, weight, *maps = ctx.saved_tensors
    gradient: Tensor = _backward(logits, target, weight, *ctx.options, slope.contiguous(), *maps)
    return gradient


def _slope(ctx: Any, slope: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return (None,) * 9 if slope is None else _gradient(ctx, slope)


_forward.register_autograd(_slope, setup_context=_keep)
