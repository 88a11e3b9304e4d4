"""The command in forked children of this process, which has imported everything: a start costs milliseconds.

Faults are put into the child before it begins, by wrapping our own functions there; the program that is shipped knows
nothing of them.
"""

import functools
import os
import select
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import torch

from segtrain.cli.stopping import STOP_SIGNALS
from segtrain.cli.train import main
from segtrain.precision import Precision

TINY = ["--import", "tiny_components", "--config", str(Path(__file__).parent / "tiny.yaml")]
PATIENCE_S = 120


class Child:
    """A run in a process and a group of its own; `fault` is called in it before the run begins."""

    def __init__(self, arguments, log, fault=None):
        self.log = Path(log)
        self._told, tell = os.pipe()
        self._process = get_context("fork").Process(target=_run, args=(list(map(str, arguments)), log, fault, tell))
        self._process.start()
        os.close(tell)
        self.pid = self._process.pid

    def reached(self):
        """Wait until the child has reached a place that was marked with `stop_at`."""
        assert select.select([self._told], [], [], PATIENCE_S)[0], self.said()
        assert os.read(self._told, 1), f"it ended before: {self.said()}"

    def send(self, number, group=False):
        (os.killpg if group else os.kill)(self.pid, number)

    def ends_within(self, seconds):
        end = time.monotonic() + seconds  # join() would wait for its loader workers as well, who notice it later
        while self._process.exitcode is None and time.monotonic() < end:
            time.sleep(0.01)
        return self._process.exitcode is not None

    def end(self):
        """Its exit code, negative where a signal ended it."""
        if not self.ends_within(PATIENCE_S):
            os.killpg(self.pid, signal.SIGKILL)
            raise AssertionError(f"it did not end: {self.said()}")
        code = self._process.exitcode
        os.close(self._told)
        self._process.close()
        return code

    def said(self):
        return self.log.read_text() if self.log.exists() else ""


def run(*arguments, fault=None, log="said.txt"):
    """The exit code of a run in a child, and what it said."""
    child = Child(arguments, log, fault)
    return child.end(), child.said()


_tell = [-1]


def _run(arguments, log, fault, tell):
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
    torch.set_num_threads(1)
    _tell[0] = tell
    if fault is not None:
        fault()
    sys.exit(main(arguments))


def wait_for(condition):
    """Poll until `condition()` is true; fails when patience is at an end."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# ---- faults


def wrapped(owner, name, before):
    """Call `before(*arguments)` whenever `owner.name` is called."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def call(*values, **options):
        before(*values)
        return original(*values, **options)

    setattr(owner, name, call)


def kill_at(owner, name, when=lambda *_: True):
    """kill -9 of this process at the first call of `owner.name` for which `when(*arguments)` holds."""
    wrapped(owner, name, lambda *values: when(*values) and os.kill(os.getpid(), signal.SIGKILL))


def stop_at(owner, name, when=lambda *_: True, twice=False):
    """Tell the test that the place is reached, and wait there for a stop signal; or for a second one, which kills."""
    waited = []

    def wait(*values):
        if not waited and when(*values):
            waited.append(True)
            os.write(_tell[0], b"!")
            while all(signal.getsignal(number) is not signal.SIG_DFL for number in STOP_SIGNALS):
                time.sleep(0.01)
            if twice:
                os.write(_tell[0], b"!")
                time.sleep(PATIENCE_S)

    wrapped(owner, name, wait)


def scaled():
    """A gradient scaler as fp16 has it, which changes its scale within the run; a CPU does not train in fp16 itself."""
    Precision.scaler = lambda self: torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
