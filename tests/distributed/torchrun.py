"""Starting the command under torchrun, as a user does, on this machine's processors."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "tools" / "train.py")
TINY = ["--import", "tiny_components", "--config", str(ROOT / "tests" / "tiny.yaml")]


def command(*arguments, ranks=2, restarts=0, script=TRAIN, options=("--standalone",)):
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
    return [*launcher, f"--max-restarts={restarts}", *options, script, *map(str, arguments)]


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def torchrun(*arguments, seconds=300, **options):
    """The finished job; one that does not end in time is killed with all its ranks, and the test fails."""
    process = start(*arguments, **options)
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        for number in processes_of_jobs():
            os.kill(number, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def start(*arguments, env=(), **options):
    """The same, not waited for; its processes form a group of their own."""
    return subprocess.Popen(
        command(*arguments, **options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(JOBS_IN=os.getcwd(), **dict(env)),
        start_new_session=True,
    )


def processes_of_jobs():
    """All that jobs in this directory have started and that still runs; loader processes inherit the mark too."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"JOBS_IN={os.getcwd()}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_for(condition, seconds=120):
    """Poll until `condition()` is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return result
