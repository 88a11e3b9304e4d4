"""Pixel losses on class labels (or class probabilities): logits [B, C, *] → LossMap [B, *].

The gradient of an ignored entry is 0 even if its logits are NaN.
Half precision is computed in float32. A label out of range makes the loss NaN; nothing here waits for the device.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.losses import kernels
from segtrain.losses.maps import LossMap
from segtrain.losses.targets import (
    Labels,
    check_shapes,
    check_weight_count,
    full_precision,
    is_soft,
    per_channel,
    read_labels,
    shield,
)
from segtrain.upsampling import Logits, full_resolution

Spread = Literal["all", "others"]


def cross_entropy(
    logits: Logits,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
    spread: Spread = "all",
) -> LossMap:
    """Softmax cross entropy as torch defines it, ranked by the plain cross entropy of the label.

    `target`: labels [B, *], or probabilities [B, C, *], which are ranked by the cross entropy of the likeliest class.
    `label_smoothing` ε gives each class ε/K (spread "all", as torch and Keras) or the others ε/(K-1) ("others").
    """
    classes = logits.shape[1] if logits.dim() > 1 else 0
    smoothing = _share_of_all(label_smoothing, spread, classes)
    if weight is not None:
        check_weight_count(weight, classes)
        weight = weight.to(torch.promote_types(logits.dtype, torch.float32))
    if is_soft(logits, target):
        return _soft_cross_entropy(full_precision(full_resolution(logits)), target, weight, smoothing)
    check_shapes(logits, target)
    if (fast := kernels.cross_entropy(logits, target, weight, ignore_index, smoothing)) is not None:
        return LossMap(*fast)
    logits = full_precision(full_resolution(logits))
    labels = read_labels(logits, target, classes, weight, ignore_index)
    log_p = F.log_softmax(shield(logits, labels.valid.unsqueeze(1)), 1)
    surprise = -_at_label(log_p, labels)
    value = surprise * labels.weight
    if smoothing:
        spread_out = -(log_p if weight is None else log_p * per_channel(weight, log_p)).mean(1)
        value = (1 - smoothing) * value + smoothing * spread_out
    return _label_map(value, surprise, labels)


def nll(log_p: Tensor, target: Tensor, *, weight: Tensor | None = None, ignore_index: int = 255) -> LossMap:
    """Minus the score of the label; log-probabilities (or any other scores) are taken as they are."""
    scores = full_precision(log_p)
    labels = read_labels(scores, target, scores.shape[1], weight, ignore_index)
    score = -_at_label(shield(scores, labels.valid.unsqueeze(1)), labels)
    return _label_map(score * labels.weight, score, labels)


def focal(
    logits: Logits, target: Tensor, *, gamma: float = 2.0, weight: Tensor | None = None, ignore_index: int = 255
) -> LossMap:
    """(1 - p)^γ · CE with p the softmax probability of the label (Lin et al., ICCV 2017), ranked by the CE."""
    check_gamma(gamma)
    check_shapes(logits, target)
    plain = cross_entropy(logits, target, weight=weight, ignore_index=ignore_index)
    surprise = plain.value / torch.where(plain.valid, plain.weight, 1.0)
    # for γ < 1 the power has no finite slope at 0: stay a little above
    doubt = (-torch.expm1(-surprise)).clamp(min=torch.finfo(surprise.dtype).tiny)
    return plain._replace(value=plain.value * doubt**gamma)


def _soft_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None, smoothing: float) -> LossMap:
    target = target.to(logits.dtype)
    log_p = F.log_softmax(logits, 1)
    hardness = -log_p.detach().gather(1, target.argmax(1, keepdim=True)).squeeze(1)
    wanted = target * (1 - smoothing) + smoothing / logits.shape[1] if smoothing else target
    if weight is not None:
        wanted = wanted * per_channel(weight, wanted)
    ones = torch.ones_like(hardness)
    return LossMap(-(wanted * log_p).sum(1), ones, hardness, ones > 0)


def _share_of_all(smoothing: float, spread: str, classes: int) -> float:
    """ε as spread over all classes: ε/(K-1) for the others is ε/K for all with ε·K/(K-1) in the place of ε."""
    check_smoothing(smoothing)
    if spread == "all" or smoothing == 0:
        return smoothing
    if spread != "others":
        raise ValueError(f"spread '{spread}'; expected 'all' (ε/K) or 'others' (ε/(K-1))")
    if classes < 2:
        raise ValueError(f"spread 'others' with {classes} class; expected at least 2, there are no others")
    return smoothing * classes / (classes - 1)


def check_smoothing(smoothing: float) -> None:
    """Raise ValueError unless 0 <= ε <= 1."""
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing {smoothing}; expected 0 to 1, a share (0.1 = 10 %)")


def check_gamma(gamma: float) -> float:
    """`gamma`, or ValueError for one that is no exponent."""
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma {gamma}; expected a number >= 0 (0 is cross entropy)")
    return gamma


def _at_label(scores: Tensor, labels: Labels) -> Tensor:
    return scores.gather(1, labels.safe.unsqueeze(1)).squeeze(1)


def _label_map(value: Tensor, hardness: Tensor, labels: Labels) -> LossMap:
    return LossMap(
        torch.where(labels.valid, value * labels.spoiled, 0.0),
        labels.weight,
        torch.where(labels.valid, hardness.detach() * labels.spoiled, 0.0),
        labels.valid,
    )
