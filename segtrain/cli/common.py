"""What every command does alike: how errors reach the user, and what the process returns."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from segtrain.errors import UserError

FAILED, USAGE, DISK_FULL, INTERRUPTED = 1, 2, 74, 130


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
    """Run a command; a user's mistake becomes its messages on stderr, anything unforeseen a traceback."""
    try:
        return command()
    except UserError as error:
        if show_traceback:
            traceback.print_exc()
        print("\n".join(f"error: {message}" for message in error.messages), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"error: No space left on device: {error.filename or error}", file=sys.stderr)
        return DISK_FULL
    except BrokenPipeError:
        return FAILED
