"""Cross entropy for torch.compile on a CPU: forward and backward in a form of which the compiler makes a few loops.

The derivative that autograd finds for the plain path scatters the labels' part into zeros of the logits' size, which no
compiler fuses with the rest. As in blocks.py two numbers per pixel are all that is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segtrain.losses.kernels.maps import PixelMap
from segtrain.losses.targets import full_precision, one_hot, per_channel, read_labels


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap:
    """Cross entropy of labels [B, *] for logits [B, C, *]; `smoothing` is spread over all classes."""
    value, count, hardness, valid, _, _ = _CrossEntropy.apply(logits, target, weight, ignore_index, smoothing)
    return PixelMap(value, count, hardness, valid)


class _CrossEntropy(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
    ) -> tuple[Tensor, ...]:
        x = full_precision(logits)
        labels = read_labels(x, target, x.shape[1], weight, ignore_index)
        peak = x.amax(1)
        below = x - peak.unsqueeze(1)
        total = below.exp().sum(1) * labels.spoiled
        surprise = total.log() - torch.where(one_hot(x, target), below, 0.0).sum(1)
        value = surprise * labels.weight
        if smoothing:
            per_class = _per_class(weight, x)
            spread_out = total.log() * per_class.mean() - (below * per_class).mean(1)
            value = (1 - smoothing) * value + smoothing * spread_out
        value, hardness = (torch.where(labels.valid, one, 0.0) for one in (value, surprise))
        return value, labels.weight, hardness, labels.valid, peak, 1 / total  # one division less for each logit

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, target, weight, _, ctx.smoothing = inputs
        _, count, _, _, *maps = output
        ctx.save_for_backward(logits, target, weight, count, *maps)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, weight, *maps = ctx.saved_tensors
        x, smoothing = full_precision(logits), ctx.smoothing
        slope, count, peak, scale = (one.unsqueeze(1) for one in (slopes[0], *maps))
        slope = torch.where(count == 0, 0.0, slope)
        certain = (1 - smoothing) * count if smoothing else count
        factor = certain + smoothing * _per_class(weight, x).mean() if smoothing else certain
        gradient = (x - peak).exp() * (slope * factor * scale)
        gradient = torch.where(one_hot(x, target), gradient - slope * certain, gradient)
        if smoothing:
            gradient = gradient - slope * (smoothing / x.shape[1] * _per_class(weight, x))
        return torch.where(slope == 0, 0.0, gradient).to(logits.dtype), None, None, None, None


def _per_class(weight: Tensor | None, x: Tensor) -> Tensor:
    """What each class counts for, in the shape of logits of one pixel."""
    return per_channel(x.new_ones(x.shape[1]) if weight is None else weight, x)
