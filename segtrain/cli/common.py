"""What every command does alike: how errors reach the user, and what the process returns."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable

from segtrain.errors import UserError

FAILED, USAGE, DISK_FULL, INTERRUPTED = 1, 2, 74, 130


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
    except BrokenPipeError:  # the reader of our output went away, as head does
        return FAILED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"error: No space left on device: {error.filename or error}", file=sys.stderr)
        return DISK_FULL
