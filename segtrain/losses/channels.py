"""Pixel losses that compare every channel with a number: binary cross entropy, KL divergence, L1, MSE.

A target of labels [B, *] is compared one class against the rest (one channel: labels 0 and 1) and its class weights
count for the pixel, as in cross entropy. A target in the shape of the logits holds one number per channel, may ignore
single channels, and its weights scale channels, as in torch. A pixel's value is the sum over its channels, its weight
their number, so that the mean is the mean over elements; its hardness is the plain mean over its channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.losses import kernels
from segtrain.losses.maps import LossMap
from segtrain.losses.pixel import check_smoothing
from segtrain.losses.targets import (
    check_shapes,
    check_weight_count,
    full_precision,
    label_weight,
    not_ignored,
    one_hot,
    read_labels,
    shield,
)
from segtrain.upsampling import Logits, full_resolution

Activation = Callable[[Tensor], Tensor]  # what makes of logits the values that are compared


class Wanted(NamedTuple):
    """What each channel should be; [B, C, *] or broadcastable to it."""

    number: Tensor  # 0 where it does not count
    factor: Tensor  # scales the loss of an element; NaN for a label out of range
    weight: Tensor  # what an element counts for in a mean
    counts: Tensor  # bool


def bce_with_logits(
    logits: Logits,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    pos_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    by_channel: bool = False,
) -> LossMap:
    """Binary cross entropy of sigmoid(logits); numbers of the target outside [0, 1] make the loss NaN.

    `label_smoothing` ε draws the target to ½: t·(1 - ε) + ε/2. `pos_weight` [C], or [1] for
    all, scales what speaks for a class.
    """
    check_smoothing(label_smoothing)
    if pos_weight is None and not by_channel and target.shape != logits.shape and not target.is_floating_point():
        check_shapes(logits, target)
        if weight is not None:
            check_weight_count(weight, max(logits.shape[1], 2))
            weight = weight.to(torch.promote_types(logits.dtype, torch.float32))
        if (fast := kernels.bce_with_logits(logits, target, weight, ignore_index, label_smoothing)) is not None:
            return LossMap(*fast)
    logits = full_resolution(logits)
    if pos_weight is not None:
        if pos_weight.numel() != 1:
            check_weight_count(pos_weight, logits.shape[1], "pos_weight")
        pos_weight = pos_weight.reshape(-1, *[1] * (logits.dim() - 2))

    def loss(x: Tensor, t: Tensor) -> Tensor:
        smoothed = t * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(x, smoothed, pos_weight=pos_weight, reduction="none")

    def plain(x: Tensor, t: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, t, reduction="none")

    score = plain if label_smoothing or pos_weight is not None else None
    return _compare(logits, target, loss, weight, ignore_index, score=score, unit=True, by_channel=by_channel)


def bce(
    p: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    activation: Activation | None = None,
    by_channel: bool = False,
) -> LossMap:
    """Binary cross entropy of probabilities; the logarithm stops at -100 as in torch. Outside [0, 1]: NaN."""

    def loss(x: Tensor, t: Tensor) -> Tensor:
        inside = (x >= 0) & (x <= 1)
        with torch.autocast(x.device.type, enabled=False):  # x is in full precision, torch refuses all the same
            value = F.binary_cross_entropy(torch.where(inside, x, 0.5), t, reduction="none")
        return torch.where(inside, value, torch.nan)

    return _compare(p, target, loss, weight, ignore_index, activation, unit=True, by_channel=by_channel)


def kl_div(
    log_p: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    activation: Activation | None = None,
    by_channel: bool = False,
) -> LossMap:
    """t·(log t - log p), 0 where t is 0: the divergence of the target from log-probabilities."""

    def loss(x: Tensor, t: Tensor) -> Tensor:
        return F.kl_div(x, t, reduction="none")

    return _compare(log_p, target, loss, weight, ignore_index, activation, by_channel=by_channel)


def l1(
    x: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    activation: Activation | None = None,
    by_channel: bool = False,
) -> LossMap:
    """|x - t|."""

    def loss(x: Tensor, t: Tensor) -> Tensor:
        return (x - t).abs()

    return _compare(x, target, loss, weight, ignore_index, activation, by_channel=by_channel)


def mse(
    x: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    activation: Activation | None = None,
    by_channel: bool = False,
) -> LossMap:
    """(x - t)²; summed over the channels of probabilities it is the Brier score."""

    def loss(x: Tensor, t: Tensor) -> Tensor:
        return (x - t).square()

    return _compare(x, target, loss, weight, ignore_index, activation, by_channel=by_channel)


def channel_weight(target: Tensor, channels: int, classes: int, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What each entry of `target` counts for, [B, *]: the number of its channels, times the class weight of labels."""
    if target.is_floating_point():
        return not_ignored(target, ignore_index).sum(1)
    return label_weight(target, classes, weight, ignore_index) * channels


def _compare(
    logits: Tensor,
    target: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    weight: Tensor | None,
    ignore_index: int,
    activation: Activation | None = None,
    *,
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
    unit: bool = False,
    by_channel: bool = False,
) -> LossMap:
    """The map of `loss`, ranked by `score` (default: the loss itself).

    `unit`: numbers outside [0, 1] spoil the loss. `by_channel`: a map of elements [B, C, *], not summed up to pixels.
    """
    x = full_precision(logits)
    wanted = _wanted(x, target, weight, ignore_index, unit)
    x = shield(x, wanted.counts) if activation is None else activation(shield(x, wanted.counts.any(1, keepdim=True)))
    number = wanted.number.to(x.dtype)
    plain = loss(x, number)
    value = torch.where(wanted.counts, plain * wanted.factor, 0.0)
    hardness = (plain if score is None else score(x, number)).detach()
    hardness = torch.where(wanted.factor.isnan(), torch.nan, hardness)
    hardness = torch.where(wanted.counts, hardness, 0.0)
    counts = wanted.counts.expand_as(x)
    weights = wanted.weight.to(x.dtype).expand_as(x)
    if by_channel:
        return LossMap(value, weights, hardness, counts)
    return LossMap(value.sum(1), weights.sum(1), hardness.sum(1) / counts.sum(1).clamp(min=1), counts.any(1))


def _wanted(x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, unit: bool) -> Wanted:
    if target.shape != x.shape:
        return _one_against_rest(x, target, weight, ignore_index)
    counts = not_ignored(target, ignore_index)
    number = torch.where(counts, target.to(x.dtype), 0.0)
    factor = x.new_ones(1)
    if weight is not None:
        check_weight_count(weight, x.shape[1])
        factor = weight.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))
    if unit:
        factor = torch.where((number >= 0) & (number <= 1), factor, torch.nan)
    return Wanted(number, factor, counts, counts)


def _one_against_rest(x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Wanted:
    channels = x.shape[1]
    labels = read_labels(x, target, max(channels, 2), weight, ignore_index)
    if channels == 1:
        number = labels.safe.unsqueeze(1)
    elif torch.compiler.is_compiling():
        number = one_hot(x, labels.safe)
    else:
        number = torch.zeros_like(x, dtype=torch.bool).scatter(1, labels.safe.unsqueeze(1), True)
    per_entry = (labels.weight * labels.spoiled, labels.weight, labels.valid)
    return Wanted(number, *(one.unsqueeze(1) for one in per_entry))
