"""How many processors this process may use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def processors() -> int:
    """Processors that this process may use at a time."""
    quota = cpu_quota()
    return max(1, min(allowed_processors(), round(quota))) if quota else allowed_processors()


def allowed_processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors that a container may use at a time; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        micro = int((root / "cpu/cpu.cfs_quota_us").read_text())
        return micro / int((root / "cpu/cpu.cfs_period_us").read_text()) if micro > 0 else None
    return None
