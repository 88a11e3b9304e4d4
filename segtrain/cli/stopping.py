"""Signals that ask a run to stop: before training they end the process, during it the step is finished and saved."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # SIGUSR1: what batch systems send before the end


def exit_code(number: int) -> int:
    """What a process returns that was stopped by signal `number`."""
    return 130 if number == signal.SIGINT else 143


@contextmanager
def on_stop(act: Callable[[int], None]) -> Iterator[None]:
    """Meanwhile the first stop signal calls `act` with its number, and a second one of its kind ends at once."""

    def handle(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        act(number)

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int) -> None:
    """End the process with the exit code of the signal: no step is under way that could be lost."""
    print(f"stopped by signal {number}", file=sys.stderr)
    sys.exit(exit_code(number))
