"""The machine: GPUs and their driver, processors, memory, limits, disks, and where the data is."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from segtrain.cli.doctor.finding import NOTE, OK, PROBLEM, Finding
from segtrain.processors import allowed_processors, cpu_quota, processors

_PROBE = 64 << 20  # bytes written to measure a disk
_FILES, _BYTES = 200, 64 << 20  # at most so much of the data is read to measure its disk
_GIB = 1 << 30


def gpus() -> Iterator[Finding]:
    """Each GPU with a computation on it; if there is none, why."""
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        yield _without_gpu(torch)
        return
    driver = _driver() or "unknown"
    yield Finding(OK, "gpu", f"torch {torch.__version__} for CUDA {torch.version.cuda}, driver {driver}")
    compiled = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        capability = (found.major, found.minor)
        name = f"cuda:{index} {found.name}, {found.total_memory / _GIB:.0f} GiB, sm_{found.major}{found.minor}"
        if not runs_on(capability, compiled):
            seen = f"{name}: this torch has no code for it, only for {', '.join(compiled)}"
            yield Finding(PROBLEM, "gpu", seen, "install a torch built for this GPU: pytorch.org/get-started/locally")
            continue
        try:
            free, total = torch.cuda.mem_get_info(index)
            one = torch.ones(64, 64, device=f"cuda:{index}")
            assert float((one @ one).sum()) == 64**3
        except (RuntimeError, AssertionError) as error:
            seen = f"{name}: cannot compute: {(str(error).splitlines() or ['a wrong sum'])[0]}"
            yield Finding(PROBLEM, "gpu", seen, "see nvidia-smi; a restart of the machine or of its driver may be due")
            continue
        half = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16 (no bf16)"
        if free < 0.8 * total:
            seen = f"{name}, {half}; others use {(total - free) / _GIB:.1f} GiB of it"
            yield Finding(NOTE, "gpu", seen, "nvidia-smi shows who; CUDA_VISIBLE_DEVICES chooses another GPU")
        else:
            yield Finding(OK, "gpu", f"{name}, {half}")


def runs_on(capability: tuple[int, int], compiled: list[str]) -> bool:
    """Whether code for one of `compiled` (sm_80, compute_90) runs on a GPU of this compute capability."""
    for name in compiled:
        kind, _, number = name.rstrip("af").partition("_")
        built = divmod(int(number), 10)
        if kind == "sm" and built[0] == capability[0] and built[1] <= capability[1]:
            return True  # binaries run on later GPUs of the same generation
        if kind == "compute" and built <= capability:
            return True  # this is compiled for the GPU when it is loaded
    return False


def _without_gpu(torch: Any) -> Finding:
    driver, hidden = _driver(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        seen = f"torch {torch.__version__} is built for CPUs only"
        if driver is None:
            return Finding(OK, "gpu", f"{seen}; there is no NVIDIA driver either, training runs on the CPU")
        remedy = "install a torch with CUDA: pytorch.org/get-started/locally has the command"
        return Finding(PROBLEM, "gpu", f"{seen}, but this machine has the NVIDIA driver {driver}", remedy)
    try:
        torch.cuda.init()
        reason = "no GPU is visible"
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
    if driver is not None and hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        seen = f"CUDA_VISIBLE_DEVICES is {hidden!r}, so training runs on the CPU"
        return Finding(NOTE, "gpu", seen, "unset CUDA_VISIBLE_DEVICES to use the GPUs")
    if driver is None:
        seen = f"no NVIDIA driver, so training runs on the CPU (torch is for CUDA {torch.version.cuda})"
        remedy = "if there is a GPU: install its driver; in a container, start it with --gpus all"
        return Finding(NOTE, "gpu", seen, remedy)
    seen = f"driver {driver}, but torch for CUDA {torch.version.cuda} cannot use it: {reason}"
    remedy = "a newer driver, or a torch built for an older CUDA: pytorch.org/get-started/locally"
    return Finding(PROBLEM, "gpu", seen, remedy)


def _driver() -> str | None:
    """The version of the NVIDIA driver, None without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return told.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def threads() -> Iterator[Finding]:
    """Processors that this process may use, and threads that torch computes with."""
    torch: Any = importlib.import_module("torch")
    allowed, limit = allowed_processors(), processors()
    quota, used, asked = cpu_quota(), torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    said = f"{_cpu()}: {allowed} processors" + (f", limited to {quota:g} by the container" if quota else "")
    seen = f"{said}; torch computes with {used} threads (OMP_NUM_THREADS={asked or 'not set'})"
    if used > limit:
        yield Finding(NOTE, "threads", f"{seen}, more than can run", f"export OMP_NUM_THREADS={limit}")
    elif used == 1 < limit and not torch.cuda.is_available():
        yield Finding(NOTE, "threads", seen, f"export OMP_NUM_THREADS={limit}, if training is to have all of them")
    else:
        yield Finding(OK, "threads", seen)


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def memory() -> Iterator[Finding]:
    """Main memory, and the shared one that batches travel through."""
    free, total = available_memory()
    seen = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free < 4 * _GIB:
        yield Finding(NOTE, "memory", seen, "smaller data.batch_size and fewer data.workers need less")
    else:
        yield Finding(OK, "memory", seen)
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return
    size = shutil.disk_usage(shared)
    seen = f"{shared}: {size.free / _GIB:.2g} of {size.total / _GIB:.2g} GiB free"
    if size.free < _GIB:
        remedy = "loader processes need it: docker run --shm-size=8g, or data.workers: 0"
        yield Finding(PROBLEM if size.free < _GIB // 8 else NOTE, "shared", seen, remedy)
    else:
        yield Finding(OK, "shared", seen)


def available_memory() -> tuple[int, int]:
    """Bytes that are free and bytes in all, of the machine or of what the container is given."""
    page = os.sysconf("SC_PAGE_SIZE")
    free, total = os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit < total:
            free, total = min(free, limit - used), limit
    return free, total


def limits() -> Iterator[Finding]:
    """How many files may be open: loader processes pass batches through them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    seen = f"{soft:,} files may be open at a time"
    if soft < 1024:
        yield Finding(NOTE, "limits", seen, f"ulimit -n {min(65536, hard) if hard > 0 else 65536}")
    else:
        yield Finding(OK, "limits", seen)


def data() -> Iterator[Finding]:
    """Where relative paths of data sets are looked for."""
    root = os.environ.get("SEGTRAIN_DATA")
    if root is None:
        seen = "SEGTRAIN_DATA is not set, so data is looked for from the current directory only"
        yield Finding(NOTE, "data", seen, "export SEGTRAIN_DATA=/where/datasets/are, or write full paths")
    elif not Path(root).is_dir():
        seen = f"SEGTRAIN_DATA is {root}, which is no folder"
        yield Finding(PROBLEM, "data", seen, "set it to the folder that holds your data sets, or unset it")
    else:
        names = sorted(path.name for path in Path(root).iterdir() if path.is_dir())
        held = ", ".join(names[:8]) + (", …" if len(names) > 8 else "") or "no folders"
        yield Finding(OK, "data", f"SEGTRAIN_DATA is {root} with {held}")


def disk(folder: Path, *, measure: bool) -> Iterator[Finding]:
    """Room and speed where runs are written, and the speed of reading the data."""
    at = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    room = shutil.disk_usage(at)
    seen = f"{folder.absolute()}: {room.free / _GIB:,.0f} of {room.total / _GIB:,.0f} GiB free"
    try:
        speed = _written(at) if measure else None
    except OSError as error:
        yield Finding(PROBLEM, "disk", f"{seen}, but nothing can be written: {error.strerror}", "choose another --dir")
        return
    seen += f", written with {speed / 1e6:,.0f} MB/s" if speed else ""
    if room.free < 5 * _GIB:
        yield Finding(
            NOTE, "disk", seen, "a checkpoint is about 16 bytes per parameter: tools/runs.py clean makes room"
        )
    elif speed and speed < 50e6:
        yield Finding(
            NOTE, "disk", seen, "saving will take long: another disk for log.root, or a larger checkpoint.every"
        )
    else:
        yield Finding(OK, "disk", seen)
    root = os.environ.get("SEGTRAIN_DATA")
    if measure and root and Path(root).is_dir():
        yield from _reading(Path(root))


def _written(folder: Path) -> float:
    """Bytes per second of a file that is really on the disk at the end; it is gone afterwards."""
    block = os.urandom(1 << 20)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(_PROBE >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return _PROBE / (time.perf_counter() - began)


def _reading(root: Path) -> Iterator[Finding]:
    files = list(islice((path for path in root.rglob("*") if path.is_file()), _FILES))
    total, count, began = 0, 0, time.perf_counter()
    for path in files:
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, not from memory
            total += len(file.read(_BYTES))
            count += 1
        if total > _BYTES:
            break
    seconds = max(time.perf_counter() - began, 1e-9)
    if not count:
        return
    seen = f"{root}: {count / seconds:,.0f} files/s, {total / seconds / 1e6:,.0f} MB/s read by one process"
    if count / seconds < 100 and total / seconds < 50e6:
        remedy = "a local copy, or whole files: tools/data.py convert C FOLDER --to shards, with cache: on a local disk"
        yield Finding(NOTE, "disk", seen, remedy)
    else:
        yield Finding(OK, "disk", seen)
