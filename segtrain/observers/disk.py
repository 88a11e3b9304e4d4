"""Writing logs so that they are whole after a crash and never stop a run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def append(path: Path, data: bytes) -> None:
    """Add all of `data` to the end of the file, or nothing; then it is the system's and survives a killed process.

    No file stays open between calls: nothing to flush, nothing shared with forked loader workers. Raises OSError.
    """
    with open(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest) :]  # a nearly full disk takes a part first and raises next time
        except OSError:
            file.truncate(end)
            raise


def replace(path: Path, data: bytes) -> None:
    """Give the file a new content; who reads it meanwhile sees the old one or the new one whole. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


class Forgiving:
    """`with forgiving():` around a write: the first OSError becomes a warning, the later ones pass in silence."""

    def __init__(self, what: Path) -> None:
        self._what = what
        self._warned = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._warned:
                self._warned = True
                reason = error.strerror or error
                warnings.warn(
                    f"{self._what} cannot be written: {reason}; training goes on, what cannot be written will be"
                    " missing there, and this is said once",
                    RuntimeWarning,
                    stacklevel=4,
                )
