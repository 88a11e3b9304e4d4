"""Writing files so that whoever reads them, also after a crash, finds them whole."""

from __future__ import annotations

import os
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
    except BaseException:  # a signal that ends the process as well
        unfinished.unlink(missing_ok=True)
        raise
