"""Cross entropy on a CPU, one block of pixels after the other, so that every pass but the first reads the cache.

Forward keeps two numbers per pixel, its largest logit and the sum of exponentials below it; backward makes the softmax
again from the logits, whose gradient is the only thing of their size. Fresh memory costs as much as the arithmetic, so
all blocks share their buffers. Plain torch, no compiler.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segtrain.losses.targets import full_precision, read_labels

_BLOCK = 1 << 19  # logits per thread: smaller blocks wait for Python, larger ones for memory
Place = tuple[int, slice]  # an image, and rows of it


class PixelMap(NamedTuple):
    """What a kernel gives for each pixel, as in LossMap; [B, H, W]."""

    value: Tensor
    weight: Tensor
    hardness: Tensor
    valid: Tensor


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap:
    """Cross entropy of labels [B, H, W] for logits [B, C, H, W]; `smoothing` is spread over all classes."""
    with torch.autocast(logits.device.type, enabled=False):
        return PixelMap(*_CrossEntropy.apply(logits, target, weight, ignore_index, smoothing))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        blocks = _Blocks(logits)
        classes = logits.shape[1]
        value, count, hardness, peak, total = (torch.empty_like(target, dtype=blocks.dtype) for _ in range(5))
        valid = torch.empty_like(target, dtype=torch.bool)
        for at in blocks.places:
            x = blocks.read(logits, at)
            torch.amax(x, 0, out=peak[at])
            labels = read_labels(x[None], target[at][None], classes, weight, ignore_index)
            safe, counts, is_valid, spoiled = (one[0] for one in labels)
            x = blocks.below_peak(x, peak[at])
            surprise = x.gather(0, safe[None])[0]
            others = _weighted_sum(x, weight) if smoothing else None
            torch.sum(_exp_(x), 0, out=total[at])
            total[at] *= spoiled
            log_total = total[at].log()
            surprise = log_total - surprise
            hardness[at] = torch.where(is_valid, surprise, 0.0)
            value[at] = hardness[at] * counts
            if others is not None:
                spread_out = (log_total * (classes if weight is None else weight.sum()) - others) / classes
                value[at] = (1 - smoothing) * value[at] + torch.where(is_valid, smoothing * spread_out, 0.0)
            count[at], valid[at] = counts, is_valid
        ctx.save_for_backward(logits, target, weight, peak, total, count)
        ctx.smoothing = smoothing
        ctx.mark_non_differentiable(count, hardness, valid)
        return value, count, hardness, valid

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, target, weight, peak, total, count = ctx.saved_tensors
        gradient = torch.zeros_like(logits)  # touched in one go: page faults in the order of blocks take longer
        blocks = _Blocks(logits)
        classes, smoothing = logits.shape[1], ctx.smoothing
        for at in blocks.places:
            share = torch.where(count[at] == 0, 0.0, slope[at])
            if not share.any():
                continue
            e = blocks.below_peak(blocks.read(logits, at), peak[at])
            _exp_(e)
            of_label = total[at]
            if smoothing:
                per_class = torch.ones(classes, dtype=e.dtype) if weight is None else weight
                of_label = (1 - smoothing) * count[at] * total[at]
                e.mul_((1 - smoothing) * count[at] + smoothing * per_class.mean())
                e.addcmul_(per_class.view(-1, 1, 1), total[at], value=-smoothing / classes)
            else:
                share = share * count[at]
            e.scatter_add_(0, target[at].long().clamp(0, classes - 1)[None], of_label.neg()[None])
            untouched = share == 0
            if (spoiled := untouched & total[at].isnan()).any():
                e.masked_fill_(spoiled, 0.0)
            blocks.write(gradient, at, e, torch.where(untouched, 0.0, share / total[at]))
        return gradient, None, None, None, None


class _Blocks:
    """Slabs of rows of logits [B, C, H, W], and the buffers that all of them share."""

    def __init__(self, logits: Tensor) -> None:
        images, classes, height, width = logits.shape
        rows = min(height, max(1, _BLOCK * torch.get_num_threads() // max(1, classes * width)))
        self.places: list[Place] = [
            (image, slice(top, min(top + rows, height))) for image in range(images) for top in range(0, height, rows)
        ]
        self.dtype = full_precision(logits[:0]).dtype
        # torch transposes matrices well, and reads anything else with large strides badly
        self._by_pixel = classes > 1 and logits.is_contiguous(memory_format=torch.channels_last)
        self._direct = logits.dtype == self.dtype and not self._by_pixel
        size = classes * rows * width
        self._work = logits.new_empty(size, dtype=self.dtype)
        self._copy = logits.new_empty(0 if self._direct else size, dtype=self.dtype)

    def read(self, logits: Tensor, at: Place) -> Tensor:
        """[C, R, W] of the rows in full precision."""
        rows = logits[at[0], :, at[1]]
        if self._direct:
            return rows
        block = self._copy[: rows.numel()].view(rows.shape)
        block.flatten(1).copy_(rows.flatten(1)) if self._by_pixel else block.copy_(rows)
        return block

    def below_peak(self, x: Tensor, peak: Tensor) -> Tensor:
        """x - peak, in a buffer that the next block will take over."""
        return torch.sub(x, peak, out=self._work[: x.numel()].view(x.shape))

    def write(self, gradient: Tensor, at: Place, block: Tensor, factor: Tensor) -> None:
        """Put a block, times a factor per pixel, where `read` found its logits."""
        rows = gradient[at[0], :, at[1]]
        if self._by_pixel:
            rows.flatten(1).t().copy_(block.mul_(factor).flatten(1).t())
        else:
            torch.mul(block, factor, out=rows)


def _exp_(x: Tensor) -> Tensor:
    """e^x in place; torch's exp2 takes a third of the time of its exp."""
    return x.mul_(1 / math.log(2)).exp2_()


def _weighted_sum(x: Tensor, weight: Tensor | None) -> Tensor:
    """Over the classes."""
    return x.sum(0) if weight is None else torch.mv(x.flatten(1).t(), weight).view(x.shape[1:])
