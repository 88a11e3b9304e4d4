"""Losses of a region: overlap of classes (Dice, Jaccard, Tversky) and Lovász-softmax. They cannot be mined.

No pixel has a value of its own here, so there is nothing to rank; combine one with a mined pixel loss by
`weighted_sum` instead. Ignored pixels are left out of every sum, and only classes that occur in the labels count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segtrain.distributed import sum_over_ranks, world_size
from segtrain.losses.maps import Reduced
from segtrain.losses.targets import check_weight_count, full_precision, is_soft, per_channel, read_labels, shield
from segtrain.task import Link


def overlap(
    logits: Tensor,
    target: Tensor,
    *,
    link: Link = "softmax",
    false_positives: float = 0.5,
    false_negatives: float = 0.5,
    smooth: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = 255,
    over_ranks: bool = True,
) -> Reduced:
    """1 - TP / (TP + α·FP + β·FN), averaged over the classes present in the batch over all ranks.

    α = β = ½ is Dice, 1 Jaccard, others Tversky. `smooth` is added above and below the line.
    """
    p, t, _ = _probabilities(logits, target, link, ignore_index)
    sums = torch.stack([x.transpose(0, 1).flatten(1).sum(1) for x in (p * t, p, t)])  # [3, C]
    hit, predicted, labelled = _sum_with_gradient(sums) if over_ranks else sums
    missed = false_positives * (predicted - hit) + false_negatives * (labelled - hit)
    present = labelled > 0
    each = 1 - (hit + smooth) / torch.where(present, hit + missed + smooth, 1.0)
    return _mean_of_present(each, present, weight)


def lovasz(
    logits: Tensor,
    target: Tensor,
    *,
    link: Link = "softmax",
    weight: Tensor | None = None,
    ignore_index: int = 255,
    over_ranks: bool = True,
) -> Reduced:
    """Lovász-softmax of each image over the classes present in it; its mean is over the images that have any.

    An image lies on one rank, so `over_ranks` changes nothing.

    Berman et al., "The Lovász-softmax loss", CVPR 2018.
    """
    p, t, valid = _probabilities(logits, target, link, ignore_index)
    error = torch.where(valid, (t - p).abs(), -1.0)  # what is left out comes last and adds nothing
    error, t = error.unsqueeze(-1).flatten(2), t.unsqueeze(-1).flatten(2)  # a sample is an image of one pixel
    error, order = error.sort(dim=2, descending=True)
    label = t.gather(2, order)
    counted = ~(error < 0)
    labelled = label.sum(2, keepdim=True)
    union = labelled + ((1 - label) * counted).cumsum(2)
    jaccard = 1 - (labelled - label.cumsum(2)) / union.clamp(min=1)
    steps = torch.cat([jaccard[..., :1], jaccard.diff(dim=2)], 2)
    each = torch.where(counted, error * steps, 0.0).sum(2)  # [B, C]
    return _mean_of_present(each, labelled[..., 0] > 0, weight)


def _probabilities(logits: Tensor, target: Tensor, link: Link, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities and wanted ones [B, C, *], both 0 where ignored, and which entries are valid [B, 1, *]."""
    x = full_precision(logits)
    if is_soft(logits, target):
        valid = torch.ones_like(target[:, :1], dtype=torch.bool)
        return _apply(link, x), target.to(x.dtype), valid
    labels = read_labels(x, target, max(x.shape[1], 2), None, ignore_index)
    valid = labels.valid.unsqueeze(1)
    p = _apply(link, shield(x, valid)) * labels.spoiled.unsqueeze(1)
    classes = torch.arange(x.shape[1], device=x.device) if x.shape[1] > 1 else torch.ones(1, device=x.device)
    t = labels.safe.unsqueeze(1) == per_channel(classes, x)
    return torch.where(valid, p, 0.0), (t & valid).to(x.dtype), valid


def _apply(link: Link, x: Tensor) -> Tensor:
    return x.sigmoid() if link == "sigmoid" else x.softmax(1)


def _sum_with_gradient(local: Tensor) -> Tensor:
    """Σ over ranks, with the gradient that becomes that of the sum when DDP averages over ranks."""
    if world_size() == 1:
        return local
    return sum_over_ranks(local) + world_size() * (local - local.detach())


def _mean_of_present(each: Tensor, present: Tensor, weight: Tensor | None) -> Reduced:
    """Σ over rows [..., C] of the (weighted) mean over the classes present, and how many rows have any."""
    counted = present.to(each.dtype)
    if weight is not None:
        check_weight_count(weight, each.shape[-1])
        counted = counted * weight.to(each.dtype)
    norm = counted.sum(-1)
    any_present = norm > 0
    mean = (torch.where(present, each, 0.0) * counted).sum(-1) / torch.where(any_present, norm, 1.0)
    return Reduced(mean.sum(), any_present.sum().double())
