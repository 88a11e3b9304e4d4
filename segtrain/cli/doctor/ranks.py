"""Processes that add up a number together, started as torchrun starts ranks: `python -m segtrain.cli.doctor.ranks`."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from segtrain.cli.doctor.finding import NOTE, OK, PROBLEM, Finding

_MIB = 4
_TIMEOUT_S = 90.0


def together(device: str, ranks: int) -> Iterator[Finding]:
    """An all-reduce of so many ranks on this machine: through gloo on the CPU, through NCCL with a GPU each."""
    backend = "gloo" if device == "cpu" else "NCCL"
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [sys.executable, *launch, "-m", "segtrain.cli.doctor.ranks", device]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        seen = f"{ranks} processes have not added up a number through {backend} in {_TIMEOUT_S:g} s"
        yield Finding(PROBLEM, "ranks", seen, _remedy(device))
        return
    told = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode != 0 or not told:
        why = [line for line in ended.stderr.splitlines() if "Error" in line] or ["they ended without a word"]
        seen = f"{ranks} processes cannot add up a number through {backend}: {why[0].strip()[:200]}"
        yield Finding(PROBLEM, "ranks", seen, _remedy(device))
        return
    result = json.loads(told[-1])
    seen = f"{ranks} processes, {_MIB} MiB summed through {backend} in {result['ms']:.1f} ms"
    if result["right"]:
        yield Finding(OK, "ranks", seen)
    else:
        yield Finding(PROBLEM, "ranks", f"{seen}, but the sum is wrong", "update torch and the driver of the GPUs")


def all_gpus() -> Iterator[Finding]:
    """All GPUs of this machine."""
    torch: Any = importlib.import_module("torch")
    count = torch.cuda.device_count()
    if count < 2:
        yield Finding(NOTE, "ranks", f"--ddp: {count} GPUs here, two or more are needed to try NCCL", "leave out --ddp")
        return
    yield from together("cuda", count)


def _remedy(device: str) -> str:
    if device == "cpu":
        return (
            "ranks find each other by the name of this machine: see that it resolves (getent hosts $(hostname)), "
            "or export GLOO_SOCKET_IFNAME=lo"
        )
    return "NCCL_DEBUG=INFO shows more; NCCL_P2P_DISABLE=1 and NCCL_IB_DISABLE=1 leave out doubtful connections"


def rank(device: str) -> None:
    """What each of the processes does."""
    torch: Any = importlib.import_module("torch")
    distributed: Any = importlib.import_module("segtrain.distributed")
    on = distributed.start(device, timeout_s=60)
    ones = torch.ones(_MIB << 18, device=on)
    torch.distributed.all_reduce(ones)  # connects
    began = time.perf_counter()
    torch.distributed.all_reduce(ones)
    right = bool((ones == distributed.world_size() ** 2).all())  # waits for the device
    milliseconds = 1000 * (time.perf_counter() - began)
    if distributed.is_main():
        print(json.dumps({"ms": milliseconds, "right": right}), flush=True)
    distributed.stop()


if __name__ == "__main__":
    rank(sys.argv[1])
