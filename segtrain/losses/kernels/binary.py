"""Binary cross entropy with labels on a CPU, in the blocks of cross entropy.

Σ_c softplus(x_c) - x_label needs no target of the size of the logits, which the plain path makes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.losses.kernels.blocks import blocks_of
from segtrain.losses.kernels.derivatives import differentiable
from segtrain.losses.kernels.maps import PixelMap
from segtrain.losses.targets import Labels, full_precision, labels_of_block, read_labels, shield
from segtrain.upsampling import Logits, Upsampled, full_resolution

_LINEAR = 40  # softplus(x) is x from here on, also in float64


def bce_with_logits(
    logits: Logits, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap:
    """Each class of labels [B, H, W] against the rest (one channel: labels 0 and 1) for logits [B, C, H, W]."""
    low, *upsampling = logits if isinstance(logits, Upsampled) else (logits,)
    with torch.autocast(logits.device.type, enabled=False):
        return PixelMap(*_BinaryCrossEntropy.apply(low, target, weight, ignore_index, smoothing, *upsampling))


def plain_values(
    low: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, *upsampling: Any
) -> Tensor:
    """The values in plain torch, which can be differentiated as often as anyone likes."""
    logits = full_precision(full_resolution(Upsampled(low, *upsampling) if upsampling else low))
    labels = read_labels(logits, target, max(low.shape[1], 2), weight, ignore_index)
    x = shield(logits, labels.valid[:, None])
    value = F.softplus(x, threshold=_LINEAR).sum(1) - (1 - smoothing) * _of_label(x, labels) - smoothing / 2 * x.sum(1)
    return torch.where(labels.valid, value * labels.weight * labels.spoiled, 0.0)


class _BinaryCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        low: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        smoothing: float,
        *upsampling: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        blocks = blocks_of(low, upsampling)
        channels = low.shape[1]
        value, count, hardness, total = (torch.empty_like(target, dtype=blocks.dtype) for _ in range(4))
        valid = torch.empty_like(target, dtype=torch.bool)
        for at in blocks.places:
            x = blocks.read(at)
            labels = labels_of_block(target[at], max(channels, 2), weight, ignore_index, x.dtype)
            torch.sum(F.softplus(x, threshold=_LINEAR), 1, out=total[at])
            of_label = _of_label(x, labels)
            plain = (total[at] - of_label) * labels.spoiled
            hardness[at] = torch.where(labels.valid, plain / channels, 0.0)
            if smoothing:
                plain = (total[at] - (1 - smoothing) * of_label - smoothing / 2 * x.sum(1)) * labels.spoiled
            value[at] = torch.where(labels.valid, plain * labels.weight, 0.0)
            count[at], valid[at] = labels.weight * channels, labels.valid
        ctx.save_for_backward(low, target, weight, total)
        ctx.options = ignore_index, smoothing, *upsampling
        ctx.mark_non_differentiable(count, hardness, valid)
        return value, count, hardness, valid

    @staticmethod
    @differentiable(plain_values)
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        low, target, weight, total = ctx.saved_tensors
        ignore_index, smoothing, *upsampling = ctx.options
        blocks = blocks_of(low, upsampling)
        blocks.start_gradient()
        channels = low.shape[1]
        for at in blocks.places:
            if not slope[at].any():
                blocks.skip(at)
                continue
            x = blocks.read(at)
            labels = labels_of_block(target[at], max(channels, 2), weight, ignore_index, x.dtype)
            seen = labels.valid & (slope[at] != 0)  # 0 times the NaN of a label out of range is NaN
            share = torch.where(seen, slope[at] * labels.weight * labels.spoiled, 0.0)
            e = x.sigmoid_()
            if smoothing:
                e.sub_(smoothing / 2)
            if channels == 1:
                e.sub_(labels.safe[:, None], alpha=1 - smoothing)
            else:
                certain = torch.full_like(share, smoothing - 1)
                e.scatter_add_(1, labels.safe[:, None], certain[:, None])
            if (unseen := (share == 0) & total[at].isnan()).any():
                e.masked_fill_(unseen[:, None], 0.0)
            blocks.write(at, e, share[:, None])
        return blocks.gradient.to(low.dtype)


def _of_label(x: Tensor, labels: Labels) -> Tensor:
    """The logit of the label; of one channel it speaks for label 1."""
    return x[:, 0] * labels.safe if x.shape[1] == 1 else x.gather(1, labels.safe[:, None])[:, 0]
