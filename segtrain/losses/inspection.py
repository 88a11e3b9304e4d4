"""A close look at what is mined of one batch, for log steps and pictures. It waits for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.distributed import max_over_ranks, sum_over_ranks, take_largest
from segtrain.losses.maps import LossMap, Selection
from segtrain.losses.targets import not_ignored
from segtrain.losses.upsampling import Logits, by_pixel
from segtrain.task import Task, predict

_EASY = 0.01  # a loss that says nothing is left to learn (p of the label above 0.99)
_CONFIDENT = 0.95
_NEAR = 3  # px from a label change
_ROUNDING = 1e-6  # a number of entries that is whole but for rounding is whole


class Inspection(NamedTuple):
    """What is mined of one batch; [B, *] as the target."""

    share: Tensor  # float32 in [0, 1]
    hardness: Tensor
    valid: Tensor
    threshold: Tensor  # scalar: the smallest hardness kept from, the mean over images where each has its own
    top_p: float  # the share of the valid pixels asked for
    scalars: dict[str, float]  # tags → numbers of this batch, over all ranks if they look at it together


def inspect_mining(
    losses: LossMap, selection: Selection, logits: Logits, target: Tensor, task: Task, *, over_ranks: bool = False
) -> Inspection:
    """The statistics of a selection that need sorting, labels or predictions. `over_ranks`: every rank calls it."""
    share, valid = selection.share, losses.valid
    sums = {"kept": share.sum(), "valid": valid.sum(), "easy": share[losses.hardness < _EASY].sum()}
    if target.shape == valid.shape:
        sums |= _by_label(losses, share, logits, target, task)
    flat = torch.cat([one.double().flatten() for one in sums.values()])
    flat = sum_over_ranks(flat) if over_ranks else flat
    totals = dict(zip(sums, torch.split(flat, [one.numel() for one in sums.values()]), strict=True))
    scalars = {}
    if totals["valid"] > 0:
        largest = largest_image(share)
        scalars = _scalars(totals, task) | {
            "mining/max_image_share": (max_over_ranks(largest) if over_ranks else largest) / totals["kept"],
            "mining/pixels_for_99pct_loss": natural_share(losses.hardness[valid], over_ranks=over_ranks),
        }
    top_p = selection.logs.get("top_p", totals["kept"] / totals["valid"].clamp(min=1))
    numbers = {tag: float(value) for tag, value in scalars.items()}
    return Inspection(share.float(), losses.hardness, valid, selection.threshold.nanmean(), float(top_p), numbers)


def natural_share(hardness: Tensor, part: float = 0.99, *, over_ranks: bool = False) -> Tensor:
    """The smallest share of the entries (1-D) that carries `part` of the loss: a first guess for top_p."""
    losses = hardness.double().clamp(min=0)
    sums = torch.stack([losses.sum(), torch.full_like(losses.sum(), losses.numel())])
    total, number = sum_over_ranks(sums) if over_ranks else sums
    taken = take_largest(hardness, losses, part * total[None], over_ranks=over_ranks).share
    needed = (taken / torch.where(losses > 0, losses, 1.0)).sum()
    needed = sum_over_ranks(needed) if over_ranks else needed
    share: Tensor = (needed - _ROUNDING).ceil().clamp(min=1) / number
    return share


def largest_image(share: Tensor) -> Tensor:
    """The largest kept weight [] of an image of [B, *], 0 without images."""
    by_image = share.flatten(1).sum(1) if share.dim() > 1 else share
    return torch.cat([by_image, by_image.new_zeros(1)]).max()


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


def _by_label(losses: LossMap, share: Tensor, logits: Logits, target: Tensor, task: Task) -> dict[str, Tensor]:
    """Sums over the batch of this rank."""
    valid = losses.valid.double()
    wrong = (by_pixel(_confidence, logits) > _CONFIDENT) & (by_pixel(predict, logits) != target)
    index = target.long().clamp(0, task.num_classes - 1).flatten()
    zeros = share.new_zeros(task.num_classes)
    sums = {
        "confident_wrong": (share * wrong).sum(),
        "kept_of": zeros.scatter_add(0, index, share.flatten()),
        "valid_of": zeros.scatter_add(0, index, valid.flatten()),
    }
    if target.dim() == 3:
        near = near_label_change(target, task.ignore_index)
        sums |= {"kept_near": (share * near).sum(), "valid_near": (valid * near).sum()}
    return sums


def _confidence(logits: Tensor) -> Tensor:
    """The probability of the likeliest class [B, *]."""
    p = logits.float().sigmoid() if logits.shape[1] == 1 else logits.float().softmax(1)
    return torch.maximum(p[:, 0], 1 - p[:, 0]) if logits.shape[1] == 1 else p.amax(1)


def _scalars(totals: Mapping[str, Tensor], task: Task) -> dict[str, Tensor]:
    kept, valid = totals["kept"], totals["valid"]
    scalars = {"mining/easy_fraction": totals["easy"] / kept}
    if "confident_wrong" in totals:
        scalars["mining/confident_wrong"] = totals["confident_wrong"] / kept
        for name, of_kept, of_valid in zip(task.classes, totals["kept_of"], totals["valid_of"], strict=True):
            if of_valid > 0:
                scalars[f"mining/class_share/{name}"] = of_kept / kept
                scalars[f"mining/class_lift/{name}"] = (of_kept / kept) / (of_valid / valid)
    if "kept_near" in totals:
        part = totals["kept_near"] / kept
        scalars["mining/boundary_share"] = part
        scalars["mining/boundary_lift"] = part / (totals["valid_near"] / valid).clamp(min=1e-12)
    return scalars
