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
    """torch's cross entropy; label smoothing ε gives ε/K to all classes, or ε/(K-1) to the others (`spread="others"`).

    `inputs`: logits (N, C, …), float16 to float64. `targets`: labels (N, …) of any integer type, or probabilities in
    the shape of the inputs. `weight`: [C]. Returns a scalar in nats, float32 or float64; with "none" (N, …). Raises
    ValueError for shapes that do not fit and, on a CPU, for labels that are neither classes nor `ignore_index`.
    """
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
    """`cross_entropy` of the hardest share p of the valid pixels of the batch, over all ranks while training.

    Of n valid pixels k = min(n, max(1, ⌊p·n + 1e-6⌋)) are kept; ties at the threshold share what is left. `p` lies in
    (0, 1], or ValueError is raised; `iteration` counts the finished optimizer steps. Top-k mining of pixels as in Wu et
    al., "Bridging category-level and instance-level semantic image segmentation", 2016.

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

    Inputs as in `binary_cross_entropy_with_logits`.

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
    """Minus the score of the label; the inputs are log-probabilities (N, C, …), all else as in `cross_entropy`."""
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
    """(1 - p)^γ · `cross_entropy` with p the softmax probability of the label. Takes the same.

    Lin et al., "Focal loss for dense object detection", ICCV 2017; its α is `weight`.
    """
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

    `inputs`: logits (N, C, …). `targets`: floats in [0, 1] in the same shape, or labels (N, …) of 0 … C - 1; with C = 1
    of 0 and 1. Returns a scalar in nats; with "none" the shape of the inputs. Raises ValueError for shapes that do not
    fit.

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
    """`binary_cross_entropy_with_logits` of probabilities, whose logarithms stop at -100."""
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
    """Divergence of target probabilities from log-probabilities; "batchmean" is its mathematical definition.

    Inputs and targets are (N, C, …), or the targets labels (N, …); `log_target`: they are log-probabilities too.
    """
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
    """|input - target|, of whatever the inputs are. Unlike torch's, it leaves out what equals `ignore_index`.

    Inputs and targets are (N, C, …), or the targets labels (N, …), which stand for one-hot vectors.
    """
    losses = channel_map(channels.l1, inputs, targets, weight=weight, ignore_index=ignore_index, by_channel=True)
    return reduce(losses, targets, reduction)


def mse_loss(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """(input - target)², of whatever the inputs are. Unlike torch's, it leaves out what equals `ignore_index`.

    Inputs and targets are (N, C, …), or the targets labels (N, …), which stand for one-hot vectors.
    """
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
    """1 - Dice overlap of softmax (or sigmoid) and target, averaged over the classes in the labels of the batch.

    `tversky_loss` with α = β = 1/2. Milletari et al., "V-Net", 3DV 2016.
    """
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
    """1 - intersection over union of softmax (or sigmoid) and target: `tversky_loss` with α = β = 1."""
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
    """1 - TP / (TP + α·FP + β·FN), averaged over the classes in the labels; over all ranks while training.

    `inputs`: logits (N, C, …). `targets`: labels (N, …), with C = 1 of 0 and 1. `weight`: [C]. α is `false_positives`,
    β is `false_negatives`, `smooth` (in pixels) is added above and below. Returns a scalar in [0, 1]; errors as in
    `cross_entropy`. Salehi et al., "Tversky loss function for image segmentation", MLMI 2017.
    """
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
    """Lovász-softmax of each image over the classes in it, averaged over the images with something valid.

    `inputs`: logits (N, C, …). `targets`: labels (N, …). `weight`: [C]. Returns a scalar; errors as in `cross_entropy`.
    Berman et al., "The Lovász-softmax loss", CVPR 2018.
    """
    sums = label_map(region.lovasz, inputs, targets, weight=weight, ignore_index=ignore_index, link=link)
    return divide(sums.total, sums.count, over_ranks=False)
