"""Cross entropy on a CPU, one block of pixels after the other, so that every pass but the first reads the cache.

Forward keeps two numbers per pixel, its largest logit and the sum of exponentials below it; backward makes the softmax
again from the logits, whose gradient is the only thing of their size. (The two in one, the log-sum-exp, would round as
the largest logit does.) Of logits at low resolution a block is
interpolated when it is needed, so nothing has the size of the others. Fresh memory costs as much as the arithmetic, so
all blocks share their buffers. Plain torch, no compiler.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.losses.kernels.derivatives import differentiable
from segtrain.losses.kernels.maps import PixelMap
from segtrain.losses.kernels.pages import ask_for_large_pages
from segtrain.losses.targets import full_precision, labels_of_block, read_labels, shield
from segtrain.upsampling import Logits, Place, Upsampled, full_resolution

_BLOCK = 1 << 19  # logits per thread: smaller blocks wait for Python, larger ones for memory


def cross_entropy(
    logits: Logits, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap:
    """Cross entropy of labels [B, H, W] for logits [B, C, H, W]; `smoothing` is spread over all classes."""
    low, *upsampling = logits if isinstance(logits, Upsampled) else (logits,)
    with torch.autocast(logits.device.type, enabled=False):
        value, count, hardness, valid = _CrossEntropy.apply(low, target, weight, ignore_index, smoothing, *upsampling)
    return PixelMap(value, count, value.detach() if hardness is None else hardness, valid)


def plain_values(
    low: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, *upsampling: Any
) -> Tensor:
    """The values in plain torch, which can be differentiated as often as anyone likes."""
    logits = full_precision(full_resolution(Upsampled(low, *upsampling) if upsampling else low))
    labels = read_labels(logits, target, low.shape[1], weight, ignore_index)
    seen = shield(logits, labels.valid[:, None])
    value = F.cross_entropy(seen, labels.safe, weight, reduction="none", label_smoothing=smoothing)
    return torch.where(labels.valid, value * labels.spoiled, 0.0)


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
        value, count, peak, total = (torch.empty_like(target, dtype=blocks.dtype) for _ in range(4))
        hardness = torch.empty_like(value) if smoothing or weight is not None else None  # else the value itself
        valid = torch.empty_like(target, dtype=torch.bool)
        for at in blocks.places:
            labels = labels_of_block(target[at], classes, weight, ignore_index, blocks.dtype)
            x = blocks.read(at)
            torch.amax(x, 1, out=peak[at])
            x.sub_(peak[at][:, None])
            of_label = x.gather(1, labels.safe[:, None])[:, 0]
            others = _weighted_sum(x, weight) if smoothing else None
            torch.sum(x.exp_(), 1, out=total[at])
            if labels.spoiled.dim():
                total[at] *= labels.spoiled
            log_total = total[at].log()
            surprise = log_total - of_label
            ignored = ~labels.valid if labels.valid.dim() else None
            if ignored is not None:
                surprise.masked_fill_(ignored, 0.0)
            value[at] = surprise if weight is None else surprise * labels.weight
            if hardness is not None:
                hardness[at] = surprise
            if others is not None:
                spread_out = (log_total * (classes if weight is None else weight.sum()) - others) / classes
                if ignored is not None:
                    spread_out.masked_fill_(ignored, 0.0)
                value[at] = (1 - smoothing) * value[at] + smoothing * spread_out
            count[at], valid[at] = labels.weight, labels.valid
        ctx.save_for_backward(low, target, weight, peak, total, count)
        ctx.options = ignore_index, smoothing, *upsampling
        ctx.mark_non_differentiable(count, valid, *[] if hardness is None else [hardness])
        return value, count, hardness, valid

    @staticmethod
    @differentiable(plain_values)
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        low, target, weight, peak, total, count = ctx.saved_tensors
        _, smoothing, *upsampling = ctx.options
        blocks = blocks_of(low, upsampling)
        blocks.start_gradient()
        classes = low.shape[1]
        finite = bool((total.sum() + slope.sum()).isfinite())
        for at in blocks.places:
            share = slope[at].masked_fill(count[at] == 0, 0.0) if smoothing else slope[at] * count[at]
            factor = share / total[at]
            if not finite:
                factor.masked_fill_((share == 0) | (count[at] == 0), 0.0)  # 0 over NaN is NaN, and so is 0 times inf
            if all(edge == 0 for edge in factor.aminmax()):
                blocks.skip(at)
                continue
            e = blocks.read(at, less=peak[at]).exp_()
            of_label = total[at]
            if smoothing:
                per_class = e.new_ones(classes) if weight is None else weight
                of_label = (1 - smoothing) * count[at] * total[at]
                e.mul_(((1 - smoothing) * count[at] + smoothing * per_class.mean())[:, None])
                e.addcmul_(per_class.view(-1, 1, 1), total[at][:, None], value=-smoothing / classes)
            e.scatter_add_(1, target[at].long().clamp(0, classes - 1)[:, None], of_label.neg()[:, None])
            if not finite:
                e.masked_fill_((factor == 0)[:, None], 0.0)  # as 0 times it
            blocks.write(at, e, factor[:, None])
        return blocks.gradient.to(low.dtype)


class _Full:
    """Blocks of logits [B, C, H, W], rows of an image or a few small images, and the buffer that all of them share."""

    gradient: Tensor

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.dtype = full_precision(logits[:0]).dtype
        self.places, size = _places(logits.shape)
        self._block = logits.new_empty(size, dtype=self.dtype)

    def read(self, at: Place, less: Tensor | None = None) -> Tensor:
        """[b, C, R, W] of the rows in full precision, in the buffer, less a number per pixel.

        Also where they could be used as they are: a copy brings many classes into the cache sooner than a maximum.
        """
        rows = self.logits[at[0], :, at[1]]
        block = self._block[: rows.numel()].view(rows.shape)
        if less is not None and rows.dtype == block.dtype:
            return torch.sub(rows, less[:, None], out=block)
        block.copy_(rows)
        return block if less is None else block.sub_(less[:, None])

    def start_gradient(self) -> None:
        self.gradient = torch.empty_like(self.logits)  # all of it is written: zeros first would be one pass more
        ask_for_large_pages(self.gradient)

    def skip(self, at: Place) -> None:
        """There is no gradient in these rows."""
        self.gradient[at[0], :, at[1]] = 0

    def write(self, at: Place, block: Tensor, factor: Tensor) -> None:
        """Put a block, times a factor per pixel, where `read` found its logits."""
        rows = self.gradient[at[0], :, at[1]]
        if rows.dtype == block.dtype:
            torch.mul(block, factor, out=rows)
        else:
            rows.copy_(block.mul_(factor).to(rows.dtype))  # torch is slow at both conversion and transposition at once


class _Interpolated:
    """The same for logits that are interpolated when a block of them is read; the gradient is that of the fewer."""

    gradient: Tensor

    def __init__(self, logits: Upsampled) -> None:
        self.logits = logits
        self.dtype = full_precision(logits.low[:0]).dtype
        self.places, size = _places(logits.shape)
        height, width = logits.low.shape[2:]
        self._down, self._across = logits.taps(0).matrix(height), logits.taps(1).matrix(width)
        self._block = logits.low.new_empty(size, dtype=self.dtype)

    def read(self, at: Place, less: Tensor | None = None) -> Tensor:
        """[b, C, R, W] of the rows in full precision, in the buffer, less a number per pixel."""
        source = self.logits.source(at[1])
        low = self.logits.low[at[0], :, source].to(self.dtype)
        images, classes, rows, width = low.shape
        wide = (low.reshape(-1, width) @ self._across.t()).view(images * classes, rows, -1)
        down = self._down[at[1], source].expand(images * classes, -1, -1)
        block = self._block[: images * classes * down.shape[1] * wide.shape[2]]
        block = block.view(images * classes, down.shape[1], wide.shape[2])
        block = torch.bmm(down, wide, out=block).view(images, classes, *block.shape[1:])
        return block if less is None else block.sub_(less[:, None])

    def start_gradient(self) -> None:
        self.gradient = torch.zeros_like(self.logits.low, dtype=self.dtype)

    def skip(self, at: Place) -> None:
        """Nothing is added."""

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


def _weighted_sum(x: Tensor, weight: Tensor | None) -> Tensor:
    """Over the classes."""
    return x.sum(1) if weight is None else (weight @ x.flatten(2)).view(x.shape[0], *x.shape[2:])
