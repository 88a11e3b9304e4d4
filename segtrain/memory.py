"""Memory: how much is used, and running out of it told so that a user knows what to change."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from segtrain.errors import TrainingError

# where torch or a library of CUDA raises a plain RuntimeError
_IN_WORDS = ("DefaultCPUAllocator: can't allocate memory", "ALLOC_FAILED", "out of memory")


@contextmanager
def memory_for(what: Callable[[], str], device: torch.device, remedy: str) -> Iterator[None]:
    """Turn running out of memory into a TrainingError: `what()` needed too much, the peak on `device`, the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise TrainingError(
            f"out of memory on {device}: {what()}; {_peak(device)}. {remedy}. What was saved before is untouched"
        ) from error


def ran_out(error: Exception) -> bool:
    """Whether an error says that there was too little memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(one in str(error) for one in _IN_WORDS)


def in_use(device: torch.device) -> dict[str, float]:
    """Scalars: GiB of this process without its loaders, the peaks of a GPU, and how busy it is if it tells."""
    scalars = {"perf/cpu_rss_gib": _resident() / 2**30}
    if device.type == "cuda":
        scalars["perf/gpu_mem_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        scalars["perf/gpu_mem_reserved_gib"] = torch.cuda.max_memory_reserved(device) / 2**30
        with suppress(Exception):  # it takes nvidia-ml-py and a driver that answers
            scalars["perf/gpu_util"] = torch.cuda.utilization(device) / 100
    return scalars


def _resident() -> int:
    """Bytes of this process in memory; where the system does not tell, the most there have been."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return most_resident()


def most_resident() -> int:
    """Bytes of this process in memory at the most so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        return f"this process has used {most_resident() / 2**30:.1f} GiB at most"
    total = torch.cuda.get_device_properties(device).total_memory
    return f"at most {torch.cuda.max_memory_allocated(device) / 2**30:.1f} of {total / 2**30:.1f} GiB were allocated"
