"""Ranks and what they do together. One process takes the same way, with every sum over itself alone."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from segtrain.errors import ConfigError


def rank() -> int:
    """This process's number, 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and talks to the user."""
    return rank() == 0


def start(device: str = "auto", *, timeout_s: float = 600.0) -> torch.device:
    """Join the ranks that torchrun started, if it did, and return this rank's device.

    `device`: auto, cpu, cuda, cuda:1, …
    """
    launched = "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ
    chosen = _device(device, int(os.environ["LOCAL_RANK"]) if launched else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if launched:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    return chosen


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_ranks(value: Tensor) -> Tensor:
    """A new tensor with the sum of `value` over all ranks, on every rank; no gradient flows through it."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def max_over_ranks(value: Tensor) -> Tensor:
    """A new tensor with the largest `value` of all ranks, on every rank."""
    if world_size() == 1:
        return value.detach()
    largest = value.detach().clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


def gather(value: Any) -> list[Any]:
    """Every rank's `value` (anything that can be pickled, and is small), in the order of the ranks, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


class Taken(NamedTuple):
    """What `take_largest` took."""

    share: Tensor  # float64, of each entry's `available`
    threshold: Tensor  # [G] the smallest score that was taken from; NaN in a group that gives nothing


def take_largest(
    scores: Tensor, available: Tensor, amount: Tensor, group: Tensor | None = None, *, over_ranks: bool = True
) -> Taken:
    """Take `amount` (float64 [G]) of what is `available` (float64, like `scores`) from each group's largest scores.

    Entries tied at the threshold give the same part of what they have, so exactly `amount` is taken, whatever the
    order of the entries. NaN ranks above infinity. `group` (int64, like `scores`) tells the group of each entry,
    None: all are in the only one; a group extends over all ranks unless `over_ranks` is False. A group must have
    `amount` to give.

    Radix selection on the bits of the scores: float32 takes three histograms and as many all-reduces of 16 KiB,
    float64 six. Nothing is read on the host.
    """
    keys = _ordered(scores)
    groups = amount.numel()
    threshold = torch.zeros_like(amount, dtype=torch.int64)
    open_, missing, tied = available, amount, amount
    high = top = 32 if scores.dtype == torch.float32 else 64
    while high:
        width = min(_DIGIT, high)
        high -= width
        sign = 1 << (width - 1) if high + width == top else 0  # the first digit is signed
        digit = ((keys >> high) + sign) & ((1 << width) - 1)
        slot = digit if group is None else digit + (group << width)
        counts = torch.zeros(groups << width, dtype=torch.float64, device=scores.device)
        counts = counts.scatter_add(0, slot.flatten(), open_.flatten())
        counts = (sum_over_ranks(counts) if over_ranks else counts).view(groups, -1)
        from_here_up = counts.flip(1).cumsum(1).flip(1)
        found = ((from_here_up >= missing[:, None]).sum(1, keepdim=True) - 1).clamp(min=0)
        tied = counts.gather(1, found)[:, 0]
        missing = missing - (from_here_up - counts).gather(1, found)[:, 0]
        threshold = threshold + ((found[:, 0] - sign) << high)
        open_ = torch.where(digit == _of(found[:, 0], group), open_, 0.0)
    part = (missing / torch.where(tied > 0, tied, 1.0)).clamp(0, 1)
    at = _of(threshold, group)
    share = available * torch.where(keys > at, 1.0, torch.where(keys == at, _of(part, group), 0.0))
    return Taken(share, _unordered(threshold, scores.dtype))


_DIGIT = 11  # bits per histogram


def _of(per_group: Tensor, group: Tensor | None) -> Tensor:
    return per_group[0] if group is None else per_group[group]


def _ordered(scores: Tensor) -> Tensor:
    """int64 that order as the scores do; all zeros are equal, all NaN are equal and above infinity."""
    plain = scores.masked_fill(scores == 0, 0.0).masked_fill(scores.isnan(), torch.nan)
    bits = plain.view(torch.int32 if scores.dtype == torch.float32 else torch.int64)
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits).long()


def _unordered(keys: Tensor, dtype: torch.dtype) -> Tensor:
    bits = keys.to(torch.int32 if dtype == torch.float32 else torch.int64)
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits).view(dtype)


def _device(wanted: str, local_rank: int | None) -> torch.device:
    gpus = torch.cuda.device_count()
    if wanted == "cpu" or (wanted == "auto" and gpus == 0):
        return torch.device("cpu")
    try:
        index: int | None = torch.device("cuda" if wanted == "auto" else wanted).index
    except RuntimeError as error:
        raise ConfigError(f"--device {wanted}: not a device; allowed: auto, cpu, cuda, cuda:0, cuda:1, …") from error
    if index is None:
        index = local_rank or 0
    if index >= gpus:
        who = f"rank {local_rank} wants" if local_rank is not None else f"--device {wanted} means"
        cure = f"use --nproc_per_node={gpus} or --device cpu" if gpus else "use --device cpu"
        raise ConfigError(f"{who} cuda:{index}, but this machine has {gpus} usable GPUs; {cure}")
    return torch.device("cuda", index)
