"""Copies of shards on a local disk, made when they are first needed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if os.name == "posix":
    import fcntl


@dataclass(frozen=True)
class ShardCache:
    """Whole shards in `folder`, up to `limit` bytes; `evict` lets the oldest copies make room for new ones.

    Processes share it: a shard is copied by one of them, while the others read it where it is. A copy appears under its
    name when it is complete. Names are digests, so data sets may share it as well. What cannot be copied, for want of
    space or rights, is read where it is.
    """

    folder: Path
    limit: int
    evict: bool

    def local(self, name: str, size: int, sources: Sequence[Path]) -> Path | None:
        """The copy of the shard, made now if there is room and nobody else is copying; None without one."""
        copy = self.folder / name
        with contextlib.suppress(OSError):
            if copy.stat().st_size == size:
                return copy
        source = next((path for path in sources if path.is_file()), None)
        if source is None or size > self.limit:
            return None
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._alone() as alone:
                if alone and self._make_room(size):
                    unfinished = self.folder / f".{name}-unfinished"
                    try:
                        shutil.copyfile(source, unfinished)
                        unfinished.replace(copy)
                    finally:
                        unfinished.unlink(missing_ok=True)
                    return copy
        return None

    def _make_room(self, size: int) -> bool:
        """Whether a shard of this size may be added; removes the oldest ones for it if that is allowed."""
        copies = sorted(
            (entry.stat().st_mtime_ns, entry.stat().st_size, entry.path)
            for entry in os.scandir(self.folder)
            if entry.name.endswith(".tar")
        )
        held = sum(one for _, one, _ in copies)
        if held + size > self.limit and not self.evict:
            return False
        for _, one, path in copies:
            if held + size <= self.limit:
                break
            os.unlink(path)  # who reads it just now goes on to do so
            held -= one
        return True

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether this is the only process that copies into the folder; ends with the process at the latest."""
        with open(self.folder / ".lock", "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True
