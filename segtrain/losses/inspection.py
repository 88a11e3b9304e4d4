"""A close look at what is mined of one batch, now and then and for pictures. Nothing here waits for the device."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from segtrain.distributed import max_over_ranks, sum_over_ranks
from segtrain.losses.maps import LossMap, Selection
from segtrain.losses.targets import not_ignored
from segtrain.selection import ROUNDING, Cut, share_of, take_largest
from segtrain.task import Task
from segtrain.upsampling import Logits, by_pixel

EASY = 0.01  # a loss that says nothing is left to learn (p of the label above 0.99)
CONFIDENT = 0.95
_NEAR = 3  # px from a label change


class Inspection(NamedTuple):
    """What is mined of one batch; [B, *] as the target."""

    share: Tensor  # float32 in [0, 1]
    hardness: Tensor
    valid: Tensor
    threshold: Tensor  # scalar: the smallest hardness kept from, the mean over images where each has its own
    top_p: Tensor  # scalar: the share of the valid pixels asked for, or else kept
    scalars: dict[str, Tensor]  # by tag, of this batch, over all ranks if they look at it together; NaN: nothing to say


def inspect_mining(
    losses: LossMap, selection: Selection, logits: Logits, target: Tensor, task: Task, *, over_ranks: bool = False
) -> Inspection:
    """The statistics of a selection that need sorting, labels or predictions. `over_ranks`: every rank calls it."""
    share, valid = selection.share.double(), losses.valid
    sums = {"kept": share.sum(), "valid": valid.sum(), "easy": (share * (losses.hardness < EASY)).sum()}
    if target.shape == valid.shape:
        sums |= _by_label(losses, share, logits, target, task)
    flat = torch.cat([one.double().flatten() for one in sums.values()])
    flat = sum_over_ranks(flat) if over_ranks else flat
    totals = dict(zip(sums, torch.split(flat, [one.numel() for one in sums.values()]), strict=True))
    largest = largest_image(share)
    scalars = _scalars(totals, task) | {
        "mining/max_image_share": (max_over_ranks(largest) if over_ranks else largest) / totals["kept"],
        "mining/pixels_for_99pct_loss": natural_share(losses.hardness, valid, over_ranks=over_ranks),
    }
    top_p = selection.logs.get("top_p", totals["kept"] / totals["valid"]).squeeze()
    numbers = {tag: value.squeeze() for tag, value in scalars.items()}
    return Inspection(share.float(), losses.hardness, valid, selection.threshold.nanmean(), top_p, numbers)


def natural_share(hardness: Tensor, valid: Tensor, part: float = 0.99, *, over_ranks: bool = False) -> Tensor:
    """The smallest share of the valid entries that carries `part` of the loss: a first guess for top_p.

    NaN where nothing is valid or the loss is not finite.
    """
    losses = torch.where(valid, hardness, 0.0).double().clamp(min=0)
    sums = torch.stack([losses.sum(), valid.sum().double()])
    total, number = sum_over_ranks(sums) if over_ranks else sums
    taken = take_largest(hardness, losses, part * total[None], over_ranks=over_ranks).share
    needed = (taken / torch.where(losses > 0, losses, 1.0)).sum()  # of the last entry maybe a part
    needed = sum_over_ranks(needed) if over_ranks else needed
    known = total.isfinite() & (number > 0)
    return torch.where(known, (needed - ROUNDING).ceil().clamp(min=1) / number, torch.nan)


def largest_image(kept: Tensor | Cut) -> Tensor:
    """The largest kept weight [] of an image of [B, *], 0 without images."""
    if isinstance(kept, Cut) and kept.scores.dim() > 1:
        by_image = kept.taken_of_images()
    else:
        share = share_of(kept)
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
    return _spread(_spread(edge, 1, distance - 1), 2, distance - 1)


def _spread(mask: Tensor, dim: int, distance: int) -> Tensor:
    """Where `mask` is set at most `distance` entries away along `dim`: shifts of bits, 90 times faster than a pool."""
    wider, length = mask.clone(), mask.shape[dim]
    for by in range(1, min(distance, length - 1) + 1):
        wider.narrow(dim, by, length - by).logical_or_(mask.narrow(dim, 0, length - by))
        wider.narrow(dim, 0, length - by).logical_or_(mask.narrow(dim, by, length - by))
    return wider


def _by_label(losses: LossMap, share: Tensor, logits: Logits, target: Tensor, task: Task) -> dict[str, Tensor]:
    """Sums over the batch of this rank."""
    valid = losses.valid.double()
    index = target.long().clamp(0, task.num_classes - 1).flatten()
    zeros = share.new_zeros(task.num_classes)
    sums = {
        "confident_wrong": (share * by_pixel(partial(_surely_wrong, task=task), logits, target)).sum(),
        "kept_of": zeros.scatter_add(0, index, share.flatten()),
        "valid_of": zeros.scatter_add(0, index, valid.flatten()),
    }
    if target.dim() == 3:
        near = near_label_change(target, task.ignore_index)
        sums |= {"kept_near": (share * near).sum(), "valid_near": (valid * near).sum()}
    return sums


def _surely_wrong(logits: Tensor, target: Tensor, task: Task) -> Tensor:
    """Where the prediction is not the label and has a probability above 0.95. No map of probabilities is made."""
    logits, label = logits.float(), target.long().clamp(0, task.num_classes - 1)
    if logits.shape[1] == 1:
        score = logits[:, 0]
        return (score.abs().sigmoid() > CONFIDENT) & ((score > 0) != label.bool())
    most = logits.amax(1)
    return ((most - logits.logsumexp(1)).exp() > CONFIDENT) & (logits.gather(1, label[:, None])[:, 0] < most)


def _scalars(totals: Mapping[str, Tensor], task: Task) -> dict[str, Tensor]:
    kept, valid = totals["kept"], totals["valid"]
    scalars = {"mining/easy_fraction": totals["easy"] / kept}
    if "confident_wrong" in totals:
        scalars["mining/confident_wrong"] = totals["confident_wrong"] / kept
        present = totals["valid_of"] / valid
        mined = torch.where(present > 0, totals["kept_of"] / kept, torch.nan)
        for what, numbers in (("share", mined), ("lift", mined / present)):
            tags = [f"mining/class_{what}/{name}" for name in task.classes]
            scalars |= dict(zip(tags, numbers.unbind(), strict=True))
    if "kept_near" in totals:
        part = totals["kept_near"] / kept
        scalars["mining/boundary_share"] = part
        scalars["mining/boundary_lift"] = part / (totals["valid_near"] / valid).clamp(min=1e-12)
    return scalars
