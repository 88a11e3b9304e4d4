"""A close look at what is mined of one batch, for log steps and pictures. It waits for the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.losses.maps import LossMap, Selection
from segtrain.losses.targets import not_ignored
from segtrain.task import Task, predict

_EASY = 0.01  # a loss that says nothing is left to learn (p of the label above 0.99)
_CONFIDENT = 0.95
_NEAR = 3  # px from a label change


class Inspection(NamedTuple):
    """What is mined of one batch; [B, *] as the target."""

    share: Tensor  # float32 in [0, 1]
    hardness: Tensor
    valid: Tensor
    threshold: Tensor  # scalar: the smallest hardness kept from, the mean over images where each has its own
    top_p: float  # the share of the valid pixels asked for
    scalars: dict[str, Tensor]  # tags → numbers of this batch alone


def inspect_mining(losses: LossMap, selection: Selection, logits: Tensor, target: Tensor, task: Task) -> Inspection:
    """The statistics of a selection that need sorting, labels or predictions."""
    kept, valid = selection.share.sum(), losses.valid.sum()
    top_p = selection.logs.get("top_p", kept / valid.clamp(min=1))
    scalars = {}
    if valid > 0:
        scalars["mining/pixels_for_99pct_loss"] = natural_share(losses.hardness[losses.valid])
        scalars["mining/easy_fraction"] = selection.share[losses.hardness < _EASY].sum() / kept
        if target.shape == losses.valid.shape:
            scalars |= _about_labels(losses, selection.share, logits.detach(), target, task)
    share = selection.share.float()
    return Inspection(share, losses.hardness, losses.valid, selection.threshold.nanmean(), float(top_p), scalars)


def natural_share(hardness: Tensor, part: float = 0.99) -> Tensor:
    """The smallest share of the entries (1-D) that carries `part` of the loss: a first guess for top_p."""
    running = hardness.double().sort(descending=True).values.cumsum(0)
    return ((running < part * running[-1]).sum() + 1) / len(running)


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
    return F.max_pool2d(edge[:, None].float(), 2 * distance - 1, stride=1, padding=distance - 1)[:, 0] > 0


def _about_labels(losses: LossMap, share: Tensor, logits: Tensor, target: Tensor, task: Task) -> dict[str, Tensor]:
    kept, valid = share.sum(), losses.valid.double()
    p = logits.float().sigmoid() if logits.shape[1] == 1 else logits.float().softmax(1)
    confidence = torch.maximum(p[:, 0], 1 - p[:, 0]) if logits.shape[1] == 1 else p.amax(1)
    wrong = (confidence > _CONFIDENT) & (predict(logits) != target)
    scalars = {"mining/confident_wrong": (share * wrong).sum() / kept}
    if target.dim() == 3:
        near = near_label_change(target, task.ignore_index)
        part = (share * near).sum() / kept
        scalars["mining/boundary_share"] = part
        scalars["mining/boundary_lift"] = part / ((valid * near).sum() / valid.sum()).clamp(min=1e-12)
    index = target.long().clamp(0, task.num_classes - 1).flatten()
    zeros = share.new_zeros(task.num_classes)
    mined = zeros.scatter_add(0, index, share.flatten()) / kept
    present = zeros.scatter_add(0, index, valid.flatten()) / valid.sum()
    for name, of_mined, of_valid in zip(task.classes, mined, present, strict=True):
        if of_valid > 0:
            scalars[f"mining/class_share/{name}"] = of_mined
            scalars[f"mining/class_lift/{name}"] = of_mined / of_valid
    return scalars
