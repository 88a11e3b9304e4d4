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


def run_of(checkpoint: Path) -> Path:
    """The directory of the run that a checkpoint belongs to, or is; the current one for a file that lies alone."""
    if checkpoint.is_dir():
        return checkpoint
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else Path()


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` at the end, or nothing if something goes wrong before.

    Raises DataError if `out` is there already and holds anything.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty; nothing is overwritten: name a new folder, or remove this one")
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-unfinished-", dir=out.parent))
    try:
        yield unfinished
        unfinished.chmod(0o777 & ~_umask())
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextmanager
def main_folder(out: Path) -> Iterator[Path | None]:
    """On rank 0 a folder that becomes `out` at a good end; None on the others. Raises UserError if it cannot."""
    if not distributed.is_main():
        yield None
        return
    with to_be_written(out), new_folder(out) as folder:
        yield folder


@contextmanager
def to_be_written(out: Path) -> Iterator[None]:
    """Around all that is written below `out`. Raises ConfigError where that is not possible, but for a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise ConfigError(f"cannot write to {out}: {error.strerror}; choose another --out") from error


def write_files(folder: Path, contents: dict[str, bytes], *, overwrite: bool) -> None:
    """Write several files, each whole or not at all. Raises DataError before the first if one is there already."""
    there = [name for name in contents if (folder / name).exists()]
    if there and not overwrite:
        raise DataError(f"{folder / there[0]} exists; give another --out, or --overwrite to replace it")
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        unfinished = folder / f".{name}-unfinished-{os.getpid()}"
        try:
            unfinished.write_bytes(content)
            unfinished.replace(folder / name)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Around the making of folders. Raises DataError where that is not possible."""
    try:
        yield
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise DataError(f"{out} cannot be made: {error.strerror}: {error.filename}; name another folder") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
