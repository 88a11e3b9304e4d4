"""A close look at what is mined of one batch, now and then and for pictures. Nothing here waits for the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segtrain.distributed import take_largest
from segtrain.losses.maps import LossMap, Selection
from segtrain.losses.targets import not_ignored
from segtrain.task import Task

_EASY = 0.01  # a loss that says nothing is left to learn (p of the label above 0.99)
_CONFIDENT = 0.95
_NEAR = 3  # px from a label change


class Inspection(NamedTuple):
    """What is mined of one batch; [B, *] as the target."""

    share: Tensor  # float32 in [0, 1]
    hardness: Tensor
    valid: Tensor
    threshold: Tensor  # scalar: the smallest hardness kept from, the mean over images where each has its own
    top_p: Tensor  # scalar: the share of the valid pixels asked for, or else kept
    scalars: dict[str, Tensor]  # tags → scalars of this batch alone, NaN where there is nothing to say


def inspect_mining(losses: LossMap, selection: Selection, logits: Tensor, target: Tensor, task: Task) -> Inspection:
    """The statistics of a selection that need a threshold of their own, labels or predictions."""
    share, kept = selection.share, selection.share.sum()
    scalars = {
        "mining/pixels_for_99pct_loss": natural_share(losses.hardness, losses.valid),
        "mining/easy_fraction": (share * (losses.hardness < _EASY)).sum() / kept,
    }
    if target.shape == losses.valid.shape:
        scalars |= _about_labels(losses, share, logits.detach(), target, task)
    top_p = selection.logs.get("top_p", kept / losses.valid.sum())
    return Inspection(share.float(), losses.hardness, losses.valid, selection.threshold.nanmean(), top_p, scalars)


def natural_share(hardness: Tensor, valid: Tensor, part: float = 0.99) -> Tensor:
    """The smallest share of the valid entries that carries `part` of the loss: a first guess for top_p."""
    loss = torch.where(valid, hardness, 0.0).double().clamp(min=0)
    total = loss.sum()
    taken = take_largest(hardness, loss, (part * total).view(1), over_ranks=False).share
    number = (taken / torch.where(loss > 0, loss, 1.0)).sum()  # of the last one maybe a part
    known = total.isfinite() & valid.any()
    return torch.where(known, (number - 1e-6).ceil().clamp(min=1) / valid.sum(), torch.nan)


def near_label_change(target: Tensor, ignore_index: int, distance: int = _NEAR) -> Tensor:
    """Pixels of [B, H, W] at most `distance` from a pixel of another class; ignored pixels make no change."""
    labels = target.long()
    named = not_ignored(labels, ignore_index)
    edge = torch.zeros_like(named)
    across = (labels[:, 1:] != labels[:, :-1]) & named[:, 1:] & named[:, :-1]
    along = (labels[:, :, 1:] != labels[:, :, :-1]) & named[:, :, 1:] & named[:, :, :-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[:, :, 1:] |= along
    edge[:, :, :-1] |= along
    return _spread(_spread(edge, 1, distance - 1), 2, distance - 1)


def _spread(mask: Tensor, dim: int, distance: int) -> Tensor:
    """Where `mask` is set at most `distance` entries away along `dim`: shifts of bits, 90 times faster than a pool."""
    wider, length = mask.clone(), mask.shape[dim]
    for by in range(1, min(distance, length - 1) + 1):
        wider.narrow(dim, by, length - by).logical_or_(mask.narrow(dim, 0, length - by))
        wider.narrow(dim, 0, length - by).logical_or_(mask.narrow(dim, by, length - by))
    return wider


def _about_labels(losses: LossMap, share: Tensor, logits: Tensor, target: Tensor, task: Task) -> dict[str, Tensor]:
    kept, valid = share.sum(), losses.valid.double()
    wrong = _surely_wrong(logits, target, task)
    scalars = {"mining/confident_wrong": (share * wrong).sum() / kept}
    if target.dim() == 3:
        near = near_label_change(target, task.ignore_index)
        part = (share * near).sum() / kept
        scalars["mining/boundary_share"] = part
        scalars["mining/boundary_lift"] = part / ((valid * near).sum() / valid.sum()).clamp(min=1e-12)
    index = target.long().clamp(0, task.num_classes - 1).flatten()
    zeros = share.new_zeros(task.num_classes)
    present = zeros.scatter_add(0, index, valid.flatten()) / valid.sum()
    mined = torch.where(present > 0, zeros.scatter_add(0, index, share.flatten()) / kept, torch.nan)
    for what, numbers in (("share", mined), ("lift", mined / present)):
        tags = [f"mining/class_{what}/{name}" for name in task.classes]
        scalars |= dict(zip(tags, numbers.unbind(), strict=True))
    return scalars


def _surely_wrong(logits: Tensor, target: Tensor, task: Task) -> Tensor:
    """Where the prediction is not the label and has a probability above 0.95. No map of probabilities is made."""
    logits, label = logits.float(), target.long().clamp(0, task.num_classes - 1)
    if logits.shape[1] == 1:
        score = logits[:, 0]
        return (score.abs().sigmoid() > _CONFIDENT) & ((score > 0) != label.bool())
    most = logits.amax(1)
    return ((most - logits.logsumexp(1)).exp() > _CONFIDENT) & (logits.gather(1, label[:, None])[:, 0] < most)
