"""Starting the command under torchrun, as a user does, on this machine's processors."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "tools" / "train.py")
TINY = ["--import", "tiny_components", "--config", str(ROOT / "tests" / "tiny.yaml")]


def command(*arguments, ranks=2, restarts=0, script=TRAIN, options=()):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [*launcher, f"--max-restarts={restarts}", *options, script, *map(str, arguments)]


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def torchrun(*arguments, env=(), **options):
    return subprocess.run(
        command(*arguments, **options),
        capture_output=True,
        text=True,
        env=environment(**dict(env)),
        timeout=300,
        check=False,
    )


def start(*arguments, env=(), **options):
    """The same, not waited for; its processes form a group of their own."""
    return subprocess.Popen(
        command(*arguments, **options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**dict(env)),
        start_new_session=True,
    )


def wait_for(condition, seconds=120):
    """Poll until `condition()` is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return result
