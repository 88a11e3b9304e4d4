"""What every command does alike: how errors reach the user, and what the process returns."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from segtrain.checkpoint import NO_SPACE
from segtrain.distributed import launch_rank, launched
from segtrain.errors import UserError

FAILED, USAGE, DISK_FULL, INTERRUPTED, TERMINATED = 1, 2, 74, 130, 143
PRECEDENCE_S = 10.0  # how long the other ranks leave the word to rank 0


@contextmanager
def remarks() -> Iterator[list[str]]:
    """Collects what the package has to say meanwhile, such as which files a data set left out."""
    handler = _Collector(logging.INFO)
    package = logging.getLogger("segtrain")
    before = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield handler.told
    finally:
        package.removeHandler(handler)
        package.setLevel(before)


class _Collector(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


def guarded(command: Callable[[], int], *, show_traceback: bool = False) -> int:
    """Run a command; a user's mistake becomes its messages on stderr, anything unforeseen a traceback.

    Under torchrun the error is recorded for its report, and a mistake that all ranks have made is told by rank 0.
    """
    try:
        with _taken_back_when_terminated():
            return (record(command)() or 0) if launched() else command()
    except UserError as error:
        if launch_rank() > 0:
            time.sleep(PRECEDENCE_S)  # if rank 0 has met the same, torchrun ends this process now
        if show_traceback:
            traceback.print_exc()
        who = f"rank {launch_rank()}: " if launch_rank() > 0 else ""
        print("\n".join(f"error: {who}{message}" for message in error.messages), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return FAILED
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        print(f"error: {error.strerror}: {error.filename or 'somewhere'}", file=sys.stderr)
        return DISK_FULL
    except RuntimeError as error:
        if show_traceback or not _is_of_another_rank(error):
            raise
        print(f"rank {launch_rank()} ends: it lost another one ({str(error).split('. ')[0]})", file=sys.stderr)
        return FAILED


@contextmanager
def _taken_back_when_terminated() -> Iterator[None]:
    """Meanwhile SIGTERM unwinds as Ctrl-C does, where nobody else answers it; torchrun ends ranks that hang."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if launched() or not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminated(number: int, _: FrameType | None) -> None:
    print("stopped by SIGTERM", file=sys.stderr)
    sys.exit(TERMINATED)


def _is_of_another_rank(error: RuntimeError) -> bool:
    """Whether communication failed, as it does when another rank has ended; that one tells the reason."""
    return launched() and (isinstance(error, dist.DistError) or "gloo" in str(error))
