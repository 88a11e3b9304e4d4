"""Cross entropy on a CPU, one block of pixels after the other, so that every pass but the first reads the cache.

Forward keeps one number per pixel, the sum of exponentials below its largest logit; backward makes the softmax again
from the logits, whose gradient is the only thing of their size. (The log-sum-exp alone would round as the largest logit
does.) Of logits at low resolution a block is
interpolated when it is needed, so nothing has the size of the others. Fresh memory costs as much as the arithmetic, so
all blocks share their buffers. Plain torch, no compiler.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from segtrain.losses.kernels.maps import PixelMap
from segtrain.losses.kernels.once import once
from segtrain.losses.targets import full_precision, read_labels
from segtrain.losses.upsampling import Logits, Place, Upsampled

_BLOCK = 1 << 19  # logits per thread: smaller blocks wait for Python, larger ones for memory


def cross_entropy(
    logits: Logits, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap:
    """Cross entropy of labels [B, H, W] for logits [B, C, H, W]; `smoothing` is spread over all classes."""
    low, *upsampling = logits if isinstance(logits, Upsampled) else (logits,)
    with torch.autocast(logits.device.type, enabled=False):
        value, count, hardness, valid = _CrossEntropy.apply(low, target, weight, ignore_index, smoothing, *upsampling)
    return PixelMap(value, count, value.detach() if hardness is None else hardness, valid)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        low: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        smoothing: float,
        *upsampling: Any,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        blocks = blocks_of(low, upsampling)
        classes = low.shape[1]
        value, count, total = (torch.empty_like(target, dtype=blocks.dtype) for _ in range(3))
        hardness = torch.empty_like(value) if smoothing or weight is not None else None  # else the value itself
        valid = torch.empty_like(target, dtype=torch.bool)
        for at in blocks.places:
            x = blocks.read(at)
            safe, counts, is_valid, spoiled = read_labels(x, target[at], classes, weight, ignore_index)
            x = blocks.below_peak(x)
            surprise = x.gather(1, safe[:, None])[:, 0]
            others = _weighted_sum(x, weight) if smoothing else None
            torch.sum(_exp_(x), 1, out=total[at])
            total[at] *= spoiled
            log_total = total[at].log()
            surprise = log_total - surprise
            surprise = torch.where(is_valid, surprise, 0.0)
            value[at] = surprise * counts
            if hardness is not None:
                hardness[at] = surprise
            if others is not None:
                spread_out = (log_total * (classes if weight is None else weight.sum()) - others) / classes
                value[at] = (1 - smoothing) * value[at] + torch.where(is_valid, smoothing * spread_out, 0.0)
            count[at], valid[at] = counts, is_valid
        ctx.save_for_backward(low, target, weight, total, count)
        ctx.smoothing, ctx.upsampling = smoothing, upsampling
        ctx.mark_non_differentiable(count, valid, *[] if hardness is None else [hardness])
        return value, count, hardness, valid

    @staticmethod
    @once
    def backward(ctx: Any, slope: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        low, target, weight, total, count = ctx.saved_tensors
        blocks = blocks_of(low, ctx.upsampling)
        blocks.start_gradient()
        classes, smoothing = low.shape[1], ctx.smoothing
        for at in blocks.places:
            share = torch.where(count[at] == 0, 0.0, slope[at])
            if not share.any():
                continue
            e = blocks.below_peak(blocks.read(at))
            _exp_(e)
            of_label = total[at]
            if smoothing:
                per_class = torch.ones(classes, dtype=e.dtype) if weight is None else weight
                of_label = (1 - smoothing) * count[at] * total[at]
                e.mul_(((1 - smoothing) * count[at] + smoothing * per_class.mean())[:, None])
                e.addcmul_(per_class.view(-1, 1, 1), total[at][:, None], value=-smoothing / classes)
            else:
                share = share * count[at]
            e.scatter_add_(1, target[at].long().clamp(0, classes - 1)[:, None], of_label.neg()[:, None])
            untouched = share == 0
            if (spoiled := untouched & total[at].isnan()).any():
                e.masked_fill_(spoiled[:, None], 0.0)
            blocks.write(at, e, torch.where(untouched, 0.0, share / total[at])[:, None])
        return (blocks.gradient.to(low.dtype), *[None] * (4 + len(ctx.upsampling)))


class _Full:
    """Blocks of logits [B, C, H, W], rows of an image or a few small images, and the buffers that all of them share."""

    gradient: Tensor

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.dtype = full_precision(logits[:0]).dtype
        self.places, size = _places(logits.shape)
        # torch transposes matrices well, and reads anything else with large strides badly
        self._by_pixel = logits.shape[1] > 1 and logits.is_contiguous(memory_format=torch.channels_last)
        self._direct = logits.dtype == self.dtype and not self._by_pixel
        self._work = logits.new_empty(size, dtype=self.dtype)
        self._copy = logits.new_empty(0 if self._direct else size, dtype=self.dtype)

    def read(self, at: Place) -> Tensor:
        """[b, C, R, W] of the rows in full precision."""
        rows = self.logits[at[0], :, at[1]]
        if self._direct:
            return rows
        block = self._copy[: rows.numel()].view(rows.shape)
        if not self._by_pixel:
            return block.copy_(rows)
        for one, other in zip(block, rows, strict=True):
            one.flatten(1).copy_(other.flatten(1))
        return block

    def below_peak(self, x: Tensor) -> Tensor:
        """x less its maximum over the classes, in a buffer that the next block will take over."""
        return torch.sub(x, x.amax(1, keepdim=True), out=self._work[: x.numel()].view(x.shape))

    def sigmoid(self, x: Tensor) -> Tensor:
        """In the same buffer."""
        return torch.sigmoid(x, out=self._work[: x.numel()].view(x.shape))

    def start_gradient(self) -> None:
        self.gradient = torch.zeros_like(self.logits)  # touched in one go: faults in the order of blocks take longer

    def write(self, at: Place, block: Tensor, factor: Tensor) -> None:
        """Put a block, times a factor per pixel, where `read` found its logits."""
        rows = self.gradient[at[0], :, at[1]]
        if not self._by_pixel:
            torch.mul(block, factor, out=rows)
            return
        for one, other in zip(rows, block.mul_(factor), strict=True):
            one.flatten(1).t().copy_(other.flatten(1).t())


class _Interpolated:
    """The same for logits that are interpolated when a block of them is read; the gradient is that of the fewer."""

    gradient: Tensor

    def __init__(self, logits: Upsampled) -> None:
        self.logits = logits
        self.dtype = full_precision(logits.low[:0]).dtype
        self.places, size = _places(logits.shape)
        height, width = logits.low.shape[2:]
        self._down, self._across = logits.taps(0).matrix(height), logits.taps(1).matrix(width)
        self._work = logits.low.new_empty(size, dtype=self.dtype)

    def read(self, at: Place) -> Tensor:
        """[b, C, R, W] of the rows in full precision; `below_peak` overwrites them."""
        source = self.logits.source(at[1])
        low = self.logits.low[at[0], :, source].to(self.dtype)
        images, classes, rows, width = low.shape
        wide = (low.reshape(-1, width) @ self._across.t()).view(images * classes, rows, -1)
        down = self._down[at[1], source].expand(images * classes, -1, -1)
        block = self._work[: images * classes * down.shape[1] * wide.shape[2]]
        block = block.view(images * classes, down.shape[1], wide.shape[2])
        return torch.bmm(down, wide, out=block).view(images, classes, *block.shape[1:])

    def below_peak(self, x: Tensor) -> Tensor:
        return x.sub_(x.amax(1, keepdim=True))

    def sigmoid(self, x: Tensor) -> Tensor:
        return x.sigmoid_()

    def start_gradient(self) -> None:
        self.gradient = torch.zeros_like(self.logits.low, dtype=self.dtype)

    def write(self, at: Place, block: Tensor, factor: Tensor) -> None:
        """Add a block, times a factor per pixel, to the gradients of what `read` made it of."""
        source = self.logits.source(at[1])
        block.mul_(factor)
        images, classes, rows, width = block.shape
        down = self._down[at[1], source].t().expand(images * classes, -1, -1)
        narrow = torch.bmm(down, block.view(images * classes, rows, width)).view(-1, width) @ self._across
        self.gradient[at[0], :, source] += narrow.view(images, classes, -1, narrow.shape[1])


def blocks_of(low: Tensor, upsampling: tuple[Any, ...]) -> _Full | _Interpolated:
    """The blocks of logits, or of those that the fields of an `Upsampled` after the first make of `low`."""
    return _Interpolated(Upsampled(low, *upsampling)) if upsampling else _Full(low)


def _places(shape: torch.Size) -> tuple[list[Place], int]:
    """The blocks of logits of a shape, and the number of logits in the largest."""
    images, classes, height, width = shape
    most, row = _BLOCK * torch.get_num_threads(), max(1, classes * width)
    rows = min(height, max(1, most // row))
    some = max(1, most // (row * height)) if rows == height else 1
    starts = [(image, top) for image in range(0, images, some) for top in range(0, height, rows)]
    places = [(slice(i, min(i + some, images)), slice(top, min(top + rows, height))) for i, top in starts]
    return places, min(some, images) * rows * classes * width


def _exp_(x: Tensor) -> Tensor:
    """e^x in place; torch's exp2 takes a third of the time of its exp."""
    return x.mul_(1 / math.log(2)).exp2_()


def _weighted_sum(x: Tensor, weight: Tensor | None) -> Tensor:
    """Over the classes."""
    return x.sum(1) if weight is None else (weight @ x.flatten(2)).view(x.shape[0], *x.shape[2:])
