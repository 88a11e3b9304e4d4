"""Ranks and what they do together. One process takes the same way, with every sum over itself alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

from segtrain.errors import ConfigError, UserError

T = TypeVar("T")


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

    `device`: auto, cpu, cuda, cuda:1, …; several ranks on a machine have one GPU each. `timeout_s`: how long a rank
    waits for the others before it gives up.
    """
    chosen = _device(device, int(os.environ["LOCAL_RANK"]) if launched() else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if launched():
        timeout = timedelta(seconds=timeout_s)
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            timeout=timeout,
            store=_store_of_attempt(timeout),
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
    return chosen


def launched() -> bool:
    """Whether this process is one of several, or at least of torchrun's."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch_rank() -> int:
    """This process's number, known before the ranks have met."""
    return int(os.environ["RANK"]) if launched() else 0


def job() -> str | None:
    """A name of this job of torchrun, the same in all its attempts; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name != "none":
        return name
    return str(Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parents[2])  # torchrun makes this folder for one job


def restarted_job() -> str | None:
    """The name of this job if torchrun has restarted it, else None."""
    return job() if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" else None


def stop() -> None:
    """Leave the process group, if there is one. Only at a good end: the others must be able to leave as well."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _store_of_attempt(timeout: timedelta) -> Any:
    """Where the ranks of this attempt find each other; None: where the environment says.

    Under torchrun all attempts share a store, in which restarted ranks would find the addresses of the ranks that were
    ended before them. torchrun on each machine counts attempts for itself, so with several machines the number means
    nothing; there TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives every attempt a store of its own.
    """
    env = os.environ
    if env.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or env["WORLD_SIZE"] != env.get("LOCAL_WORLD_SIZE"):
        return None
    store = TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False, timeout=timeout)
    return PrefixStore(f"attempt {env['TORCHELASTIC_RESTART_COUNT']}", store)


def from_main(function: Callable[[], T]) -> T:
    """What `function` returns on rank 0, where alone it is called, on every rank; so with a UserError that it raises.

    The others wait as long as it takes: if rank 0 dies, torchrun ends them.
    """
    outcome: list[T | UserError | None] = [None]
    if is_main():
        try:
            outcome = [function()]
        except UserError as error:
            outcome = [error]
    if world_size() > 1:
        with _patience() as group:
            dist.broadcast_object_list(outcome, src=0, group=group)
    value = outcome[0]
    if isinstance(value, UserError):
        raise value
    return value  # type: ignore[return-value]


@contextmanager
def _patience() -> Iterator[dist.ProcessGroup]:
    group = _group_on_cpu(timedelta(days=7))
    yield group
    dist.destroy_process_group(group)


def _group_on_cpu(timeout: timedelta | None = None) -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)  # it has all ranks
    return group


def of_all_ranks(value: T, *, patient: bool = False) -> list[T]:
    """Every rank's `value`, by rank, on every rank. `patient`: they wait for each other as long as it takes."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    with _patience() if patient else nullcontext() as group:
        dist.all_gather_object(values, value, group)
    return values  # type: ignore[return-value]


def require_same(what: str, mine: object) -> None:
    """Raise ConfigError, on all ranks, where they differ in `mine`; every rank calls it."""
    first, *others = of_all_ranks(mine, patient=True)
    for number, theirs in enumerate(others, 1):
        if theirs != first:
            seen = f"rank {number} has {what} {theirs}, rank 0 has {first}"
            raise ConfigError(f"{seen}; every machine needs the same files and the same command")


def share_buffers(module: nn.Module) -> None:
    """Give every rank the buffers that rank 0 has, such as running means, of which each rank has seen its own."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


class Vote:
    """A number that all ranks agree on in every step without waiting: the largest one is known a step later.

    It has a process group of its own on the CPU, so that no rank waits for a device to read it.
    """

    def __init__(self) -> None:
        self._group = _group_on_cpu() if world_size() > 1 else None
        self._under_way: tuple[dist.Work, Tensor] | None = None

    def __call__(self, mine: int) -> int:
        """The largest number that a rank gave at the previous call, the same on all; alone, the number itself."""
        if self._group is None:
            return mine
        agreed = self.finish()
        if not agreed:
            number = torch.tensor(mine)
            work = dist.all_reduce(number, dist.ReduceOp.MAX, group=self._group, async_op=True)
            assert work is not None
            self._under_way = work, number
        return agreed

    def finish(self) -> int:
        """The outcome of the vote under way, 0 if there is none."""
        if self._under_way is None:
            return 0
        work, number = self._under_way
        self._under_way = None
        work.wait()
        return int(number)


def sum_over_ranks(value: Tensor) -> Tensor:
    """A new tensor with the sum of `value` over all ranks, on every rank; no gradient flows through it."""
    return _over_ranks(value, dist.ReduceOp.SUM)


def mean_over_ranks(value: Tensor) -> Tensor:
    """`sum_over_ranks` divided by their number."""
    return sum_over_ranks(value) / world_size() if world_size() > 1 else sum_over_ranks(value)


def min_over_ranks(value: Tensor) -> Tensor:
    """A new tensor with the smallest `value` of all ranks, on every rank; no gradient flows through it."""
    return _over_ranks(value, dist.ReduceOp.MIN)


def max_over_ranks(value: Tensor) -> Tensor:
    """A new tensor with the largest `value` of all ranks, on every rank; no gradient flows through it."""
    return _over_ranks(value, dist.ReduceOp.MAX)


def _over_ranks(value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if world_size() == 1:
        return value.detach()
    result = value.detach().clone()
    dist.all_reduce(result, operation)
    return result


def _device(wanted: str, local_rank: int | None) -> torch.device:
    gpus = torch.cuda.device_count()
    if wanted == "cpu" or (wanted == "auto" and gpus == 0):
        return torch.device("cpu")
    try:
        index: int | None = torch.device("cuda" if wanted == "auto" else wanted).index
    except RuntimeError as error:
        raise ConfigError(f"--device {wanted}: not a device; allowed: auto, cpu, cuda, cuda:0, cuda:1, …") from error
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if local_rank is not None else 1
    usable = f"this machine has {gpus} usable GPUs (CUDA_VISIBLE_DEVICES chooses them)"
    if ranks_here > max(gpus, 1) and index is None:
        cure = f"use --nproc_per_node={gpus} or --device cpu" if gpus else "use --device cpu"
        raise ConfigError(f"{ranks_here} ranks here want a GPU each, but {usable}; {cure}")
    if ranks_here > 1 and index is not None:
        raise ConfigError(f"--device {wanted} would put all {ranks_here} ranks here on one GPU; use --device cuda")
    if index is None:
        index = local_rank or 0
    if index >= gpus:
        cure = "use another or --device cpu" if gpus else "use --device cpu"
        raise ConfigError(f"--device {wanted} means cuda:{index}, but {usable}; {cure}")
    return torch.device("cuda", index)
