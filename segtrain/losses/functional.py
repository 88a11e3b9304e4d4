"""The losses as functions with the names and conventions of torch.nn.functional.

Inputs are (N, C), (N, C, H, W) or beyond. Targets are integer labels without the channel, or floats in the shape of
the inputs. `reduction` is "mean", "sum", "batchmean" (sum / N), "none" or a function of the 1-D tensor of the losses
that count. Where nothing counts the loss is 0 and its gradient too. Labels out of range raise ValueError on a CPU and
make the loss NaN on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segtrain.losses import channels, pixel, region
from segtrain.losses.maps import divide
from segtrain.losses.pixel import Spread
from segtrain.losses.standalone import (
    Reduction,
    Warmup,
    channel_map,
    label_map,
    mine,
    mining,
    reduce,
)
from segtrain.task import Link


def cross_entropy(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    *,
    spread: Spread = "all",
) -> Tensor:
    """torch's cross entropy; label smoothing ε gives ε/K to all classes, or ε/(K-1) to the others."""
    losses = label_map(
        pixel.cross_entropy,
        inputs,
        targets,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        spread=spread,
    )
    return reduce(losses, targets, reduction)


def bootstrapped_cross_entropy(
    inputs: Tensor,
    targets: Tensor,
    iteration: int,
    p: float,
    warmup: Warmup = -1,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of the hardest share p of the valid pixels of the batch, over all ranks while training.

    `warmup`: the plain mean before iteration N, or a function (p, iteration) → share. "none" leaves 0 where a pixel
    is not kept; a function gets the k values kept.
    """
    losses = label_map(
        pixel.cross_entropy,
        inputs,
        targets,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    return mine(losses, inputs, targets, iteration, mining(p, warmup), reduction)[0]


def bootstrapped_binary_cross_entropy_with_logits(
    inputs: Tensor,
    targets: Tensor,
    iteration: int,
    p: float,
    warmup: Warmup = -1,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Binary cross entropy of the hardest share p of the valid pixels; see `bootstrapped_cross_entropy`.

    Pixels are mined, not channels: "none" has one entry per pixel.
    """
    losses = channel_map(
        channels.bce_with_logits,
        inputs,
        targets,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    return mine(losses, inputs, targets, iteration, mining(p, warmup), reduction)[0]


def nll_loss(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the score of the label; the inputs are log-probabilities."""
    return reduce(label_map(pixel.nll, inputs, targets, weight=weight, ignore_index=ignore_index), targets, reduction)


def focal_loss(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    *,
    gamma: float = 2.0,
) -> Tensor:
    """(1 - p)^γ · cross entropy with p the softmax probability of the label."""
    losses = label_map(pixel.focal, inputs, targets, weight=weight, ignore_index=ignore_index, gamma=gamma)
    return reduce(losses, targets, reduction)


def binary_cross_entropy_with_logits(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """torch's, with ignored entries left out; labels (N, …) are compared one class against the rest.

    `weight` [C] scales channels as in torch, but counts for the pixels of a class where the target holds labels.
    """
    losses = channel_map(
        channels.bce_with_logits,
        inputs,
        targets,
        weight=weight,
        ignore_index=ignore_index,
        by_channel=True,
        pos_weight=pos_weight,
        label_smoothing=label_smoothing,
    )
    return reduce(losses, targets, reduction)


def binary_cross_entropy(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """Binary cross entropy of probabilities; see `binary_cross_entropy_with_logits` for the rest."""
    losses = channel_map(channels.bce, inputs, targets, weight=weight, ignore_index=ignore_index, by_channel=True)
    return reduce(losses, targets, reduction)


def kl_div(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    *,
    log_target: bool = False,
) -> Tensor:
    """Divergence of target probabilities from log-probabilities; "batchmean" is its mathematical definition."""
    targets = targets.exp() if log_target else targets
    losses = channel_map(channels.kl_div, inputs, targets, weight=weight, ignore_index=ignore_index, by_channel=True)
    return reduce(losses, targets, reduction)


def l1_loss(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """|input - target|, of whatever the inputs are. Unlike torch's, it leaves out what equals `ignore_index`."""
    losses = channel_map(channels.l1, inputs, targets, weight=weight, ignore_index=ignore_index, by_channel=True)
    return reduce(losses, targets, reduction)


def mse_loss(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """(input - target)², of whatever the inputs are. Unlike torch's, it leaves out what equals `ignore_index`."""
    losses = channel_map(channels.mse, inputs, targets, weight=weight, ignore_index=ignore_index, by_channel=True)
    return reduce(losses, targets, reduction)


def dice_loss(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    *,
    smooth: float = 0.0,
    link: Link = "softmax",
) -> Tensor:
    """1 - Dice overlap of softmax (or sigmoid) and target, averaged over the classes in the labels of the batch."""
    return tversky_loss(
        inputs, targets, weight, ignore_index, false_positives=0.5, false_negatives=0.5, smooth=smooth, link=link
    )


def jaccard_loss(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    *,
    smooth: float = 0.0,
    link: Link = "softmax",
) -> Tensor:
    """1 - intersection over union; see `dice_loss`."""
    return tversky_loss(
        inputs, targets, weight, ignore_index, false_positives=1.0, false_negatives=1.0, smooth=smooth, link=link
    )


def tversky_loss(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    *,
    false_positives: float = 0.3,
    false_negatives: float = 0.7,
    smooth: float = 0.0,
    link: Link = "softmax",
) -> Tensor:
    """1 - TP / (TP + α·FP + β·FN), averaged over the classes in the labels; over all ranks while training."""
    over_ranks = torch.is_grad_enabled()
    sums = label_map(
        region.overlap,
        inputs,
        targets,
        weight=weight,
        ignore_index=ignore_index,
        false_positives=false_positives,
        false_negatives=false_negatives,
        smooth=smooth,
        link=link,
        over_ranks=over_ranks,
    )
    return divide(sums.total, sums.count, over_ranks=over_ranks)


def lovasz_loss(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    *,
    link: Link = "softmax",
) -> Tensor:
    """Lovász-softmax of each image over the classes in it, averaged over the images with something valid."""
    sums = label_map(region.lovasz, inputs, targets, weight=weight, ignore_index=ignore_index, link=link)
    return divide(sums.total, sums.count, over_ranks=False)
