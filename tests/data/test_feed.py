"""What happens to worker processes when something goes wrong; each test leaves time limits a factor of ten."""

import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from segtrain.data.labels import LabelSpec
from segtrain.data.loading import train_loader, val_loader
from segtrain.errors import DataError
from segtrain.task import Batch, Kind, Sample

ROOT = Path(__file__).parents[2]


class Faulty:
    """Samples of which those for which `fault` is called may do anything."""

    labels = LabelSpec(("a", "b"))
    kind: Kind = "segmentation"

    def __init__(self, fault: Callable[[int], None], count: int = 8) -> None:
        self.fault, self.count = fault, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.fault(index)
        return Sample(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), self.path(index))

    def path(self, index: int) -> str:
        return f"train/{index:04d}.png"


class CannotBePickledError(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("no")


def fail_with(error: Exception) -> Callable[[int], None]:
    def fault(index: int) -> None:
        if index == 3:
            raise error

    return fault


def start(fault: Callable[[int], None], *, workers: int = 2, timeout_s: float = 60.0) -> Iterator[Batch]:
    return train_loader(Faulty(fault), (), batch_size=2, workers=workers, seed=0, timeout_s=timeout_s).start()


def exhaust(batches: Iterator[Batch]) -> None:
    for _ in zip(range(100), batches, strict=False):
        pass


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if status(pid) != psutil.STATUS_ZOMBIE]


def status(pid: int) -> str:
    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_ZOMBIE


def has_begun(pid: int) -> bool:
    """Whether a worker has blocked SIGTERM, as it does first of all."""
    blocked = re.search(r"^SigBlk:\s+(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return blocked is not None and bool(int(blocked[1], 16) >> (signal.SIGTERM - 1) & 1)


def gone(pids: list[int], within_s: float) -> bool:
    end = time.monotonic() + within_s
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pids)


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children()]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [ValueError("boom"), CannotBePickledError("boom"), MemoryError("boom")], ids=repr)
def test_an_error_in_a_data_set_names_the_sample_and_the_place(error: Exception, workers: int):
    said = rf"train/0003\.png: {type(error).__name__}: boom \(raised at .*test_feed\.py:\d+\)"
    with pytest.raises(DataError, match=said):
        exhaust(start(fail_with(error), workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_error_comes_through_as_it_is(workers: int):
    with pytest.raises(DataError) as caught:
        exhaust(start(fail_with(DataError("m.png is bad", "n.png is worse")), workers=workers))
    assert caught.value.messages == ("m.png is bad", "n.png is worse")


def test_an_error_in_evaluation_names_the_sample_too():
    with pytest.raises(DataError, match=r"train/0003\.png: ValueError: boom"):
        list(val_loader(Faulty(fail_with(ValueError("boom"))), batch_size=2, workers=1))


@pytest.mark.parametrize(
    "end", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(3)], ids=["kill", "exit"]
)
def test_the_death_of_a_worker_is_an_error_that_names_what_it_was_loading(end: Callable[[], None]):
    def fault(index: int) -> None:
        if index == 3:
            end()

    with pytest.raises(DataError, match=r"exited unexpectedly while reading train/0003\.png; being loaded") as caught:
        exhaust(start(fault))
    assert str(caught.value).count("train/") > 2, "what else was being loaded"
    assert "data.workers: 0" in str(caught.value)


def test_a_silent_worker_is_an_error_that_names_what_it_was_loading():
    def fault(index: int) -> None:
        if index == 3:
            time.sleep(1000)

    before = children()
    with pytest.raises(
        DataError, match=r"no batch came .* for 0\.5 s while reading train/0003\.png; being loaded"
    ) as caught:
        exhaust(start(fault, workers=1, timeout_s=0.5))
    assert str(caught.value).count("train/") == 1 + 4, "what has come already is not being loaded"
    gc.collect()
    assert gone([pid for pid in children() if pid not in before], 50)


def test_a_slow_worker_has_its_time():
    batches = start(lambda index: time.sleep(0.6), workers=1, timeout_s=30)
    assert len(next(batches).ids) == 2


def test_signals_to_workers_do_not_end_them():
    before = children()
    batches = start(lambda index: None)
    next(batches)
    workers = [pid for pid in children() if pid not in before]
    assert len(workers) == 2
    end = time.monotonic() + 50
    while not all(map(has_begun, workers)) and time.monotonic() < end:  # the first batch came from one of them
        time.sleep(0.05)
    # from another process, as a terminal or a job manager would; the trainer's own SIGTERM does end them
    for name in ("TERM", "INT", "USR1", "USR2"):
        subprocess.run(["sh", "-c", f"kill -{name} {' '.join(map(str, workers))}"], check=True)
    exhaust(batches)
    assert alive(workers) == workers
    del batches
    gc.collect()
    assert gone(workers, 50)


def test_the_iterators_end_takes_the_workers_with_it():
    before = children()
    batches = start(lambda index: None)
    next(batches)
    workers = [pid for pid in children() if pid not in before]
    batches.close()  # type: ignore[attr-defined]
    assert gone(workers, 50)


def test_loaders_come_and_go_without_leaving_anything_open():
    evaluation = val_loader(Faulty(lambda index: None), batch_size=2, workers=1)
    opened = []
    for _ in range(4):
        exhaust(iter(evaluation))
        batches = start(lambda index: None, workers=1)
        next(batches)
        batches.close()  # type: ignore[attr-defined]
        del batches
        gc.collect()
        opened.append((len(list(Path("/proc/self/fd").iterdir())), len(children())))
    assert len(set(opened[1:])) == 1, opened


SCRIPT = """
import psutil, sys, time
from segtrain.data.loading import train_loader, val_loader
from segtrain.data.scenes import scenes
source = scenes(length=8, size=(24, 32))
evaluation = val_loader(source, batch_size=2, workers=1)
list(evaluation)
batches = train_loader(source, (), batch_size=2, workers=1, seed=0).start()
next(batches)
print(*(child.pid for child in psutil.Process().children()), flush=True)
if sys.argv[1] == "wait":
    time.sleep(1000)
if sys.argv[1] == "raise":
    raise RuntimeError("on purpose")
"""


def run_script(how: str) -> tuple["subprocess.Popen[str]", list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, how],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


@pytest.mark.parametrize("how", ["end", "raise"])
def test_a_process_that_ends_without_closing_its_loaders_leaves_no_worker_and_no_noise(how: str):
    process, workers = run_script(how)
    _, noise = process.communicate(timeout=120)
    assert len(workers) == 2
    assert process.returncode == (1 if how == "raise" else 0)
    assert "on purpose" in noise if how == "raise" else noise == ""
    assert noise.count("Traceback") == (how == "raise"), noise
    assert gone(workers, 50)


def test_kill_9_of_the_trainer_leaves_no_worker():
    process, workers = run_script("wait")
    process.kill()
    process.communicate(timeout=60)
    assert len(workers) == 2
    assert gone(workers, 60)


def test_shared_memory_that_is_too_small_is_suspected():
    script = (
        "from segtrain.data.loading import train_loader\n"
        "from segtrain.data.scenes import scenes\n"
        "from segtrain.errors import DataError\n"
        "try: next(train_loader(scenes(length=8, size=(600, 800)), (), batch_size=8, workers=1, seed=0).start())\n"
        "except DataError as error: print(error)\n"
    )
    small = 'mount -t tmpfs -o size=2m tmpfs /dev/shm && exec "$@"'
    if subprocess.run(["unshare", "-m", "sh", "-c", small, "sh", "true"], capture_output=True, timeout=60).returncode:
        pytest.skip("may not mount file systems here")
    command = ["unshare", "-m", "sh", "-c", small, "sh", sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "/dev/shm has 2 MiB in all: is it full? (docker run --shm-size=8g)" in done.stdout, done.stderr
    assert "scenes/train/0000" in done.stdout


def test_the_death_of_a_worker_does_not_disturb_a_training_step():
    """torch's handler of SIGCHLD, which it sets once per process, would raise in the middle of one."""
    script = (
        "import multiprocessing, time\n"
        "from segtrain.data.loading import train_loader\n"
        "from segtrain.data.scenes import scenes\n"
        "from segtrain.errors import DataError\n"
        "batches = train_loader(scenes(length=8, size=(16, 16)), (), batch_size=2, workers=1, seed=0).start()\n"
        "next(batches)\n"
        "multiprocessing.active_children()[0].kill()\n"
        "time.sleep(1)\n"
        "print('the step went on')\n"
        "try: [next(batches) for _ in range(9)]\n"
        "except DataError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("the step went on\n"), done.stderr
    assert "being loaded were: scenes/train/" in done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_pinned_where_there_is_a_gpu():
    for workers in (0, 1):
        batches = start(lambda index: None, workers=workers)
        batch = next(batches)
        assert batch.image.is_pinned()
        assert batch.target.is_pinned()
        assert batch.image.is_contiguous(memory_format=torch.channels_last)
        batches.close()  # type: ignore[attr-defined]
