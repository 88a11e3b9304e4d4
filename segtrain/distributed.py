"""Ranks and what they do together. One process takes the same way, with every sum over itself alone."""

from __future__ import annotations

import os
from datetime import timedelta

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
