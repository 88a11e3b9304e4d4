"""Running out of memory, told so that a user knows what to change."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from segtrain.errors import TrainingError

_ON_CPU = "DefaultCPUAllocator: can't allocate memory"  # torch raises a plain RuntimeError there


@contextmanager
def memory_for(what: Callable[[], str], device: torch.device, remedy: str) -> Iterator[None]:
    """Turn running out of memory into a TrainingError: `what()` needed too much, the peak on `device`, the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and _ON_CPU not in str(error):
            raise
        raise TrainingError(
            f"out of memory on {device}: {what()}; {_peak(device)}. {remedy}. What was saved before is untouched"
        ) from error


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        unit = 1 if sys.platform == "darwin" else 1024
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return f"this process has used {used / 2**30:.1f} GiB at most"
    total = torch.cuda.get_device_properties(device).total_memory
    return f"at most {torch.cuda.max_memory_allocated(device) / 2**30:.1f} of {total / 2**30:.1f} GiB were allocated"
