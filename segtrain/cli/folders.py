"""Where commands write: new folders and files, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segtrain import distributed
from segtrain.checkpoint import NO_SPACE
from segtrain.errors import ConfigError, DataError
from segtrain.writing import replace


def run_of(checkpoint: Path) -> Path:
    """The directory of the run that a checkpoint belongs to, or is; the current one for a file that lies alone."""
    if checkpoint.is_dir():
        return checkpoint
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else Path()


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into whose files are `out` at the end, or nothing if something goes wrong before.

    Raises DataError if `out` is there already and holds anything, ConfigError if it cannot be written.
    """
    with to_be_written(out):
        there = out.is_dir()
        if out.exists() and not (there and not any(out.iterdir())):
            raise DataError(
                f"{out} exists and is not empty; nothing is overwritten: name a new folder, or remove this one"
            )
        if not there:
            out.parent.mkdir(parents=True, exist_ok=True)
        above = out if there else out.parent  # an empty folder stays itself: it may be mounted, or the current one
        unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-unfinished-", dir=above))
    try:
        yield unfinished
        with to_be_written(out):
            if there:
                move_files(unfinished, out)
            else:
                unfinished.chmod(0o777 & ~_umask())
                unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextmanager
def main_folder(out: Path) -> Iterator[Path | None]:
    """On rank 0 a new folder; None on the others."""
    if not distributed.is_main():
        yield None
        return
    with new_folder(out) as folder:
        yield folder


def move_files(folder: Path, out: Path) -> None:
    """All that is in `folder` into `out`; nothing is left of `folder`."""
    for file in folder.iterdir():
        file.rename(out / file.name)
    folder.rmdir()


@contextmanager
def to_be_written(out: Path) -> Iterator[None]:
    """Around what makes or fills `out`. Raises ConfigError where that is not possible, but for a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        where = f": {error.filename}" if error.filename not in (None, str(out)) else ""
        raise ConfigError(f"{out} cannot be written: {error.strerror}{where}; name another folder") from error


def write_files(folder: Path, contents: dict[str, bytes], *, overwrite: bool) -> None:
    """Write several files, each whole or not at all. Raises DataError before the first if one is there already."""
    with to_be_written(folder):
        there = [name for name in contents if (folder / name).exists()]
        if there and not overwrite:
            raise DataError(f"{folder / there[0]} exists; give another --out, or --overwrite to replace it")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            replace(folder / name, content)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
