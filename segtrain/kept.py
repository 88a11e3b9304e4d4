"""The checkpoints that a run keeps: which one to go on from, and which ones to delete."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from segtrain import shards
from segtrain.checkpoint import is_valid
from segtrain.errors import CheckpointError

_STEP_FILE = re.compile(r"step-(\d+)(\.shards)?\.pt")
_OUR_TEMPORARY = re.compile(r"(last|best|step-\d+(\.shards)?)\.pt\.tmp")
_OUR_SHARDS = re.compile(r"step-\d+\.shards(\.tmp)?")


class Found(NamedTuple):
    """The newest valid checkpoint of a directory and what was wrong with newer ones."""

    path: Path
    state: dict[str, Any]
    damaged: tuple[CheckpointError, ...]


def newest_valid(directory: str | Path) -> Found:
    """`last.pt`, or where it is damaged the newest `step-*.pt`, or where there is none `best.pt`: that is complete too.

    Raises CheckpointError if none can be read.
    """
    directory = Path(directory)
    damaged: list[CheckpointError] = []
    for path in newest_first(directory):
        try:
            return Found(path, shards.load_rest(path), tuple(damaged))
        except CheckpointError as error:
            damaged.append(error)
    if damaged:
        raise CheckpointError(*(message for error in damaged for message in error.messages))
    raise CheckpointError(f"{directory}: no checkpoint here; expected last.pt, step-*.pt or best.pt")


def newest_first(directory: Path) -> list[Path]:
    """`last.pt`, the `step-*.pt` and `best.pt`, as far as they are there."""
    names = (directory / "last.pt", *(path for _, path in _step_files(directory)), directory / "best.pt")
    return [path for path in names if path.exists()]


def prune(directory: str | Path, keep: int, step: int) -> list[str]:
    """Delete all `step-*.pt` older than the `keep` newest valid ones, and nothing else. Returns what went wrong.

    The one of `step`, where the run is, stays also where the run had gone further before.
    """
    problems: list[str] = []
    good = 0
    for number, path in _step_files(Path(directory)):
        if good >= keep and number != step:
            try:
                delete(path)
            except OSError as error:
                problems.append(f"{path}: cannot be deleted: {error.strerror}")
        elif _is_valid(path):
            good += 1
    return problems


def delete(path: Path) -> None:
    """Delete a numbered checkpoint, with its shards if it has some. Raises OSError."""
    path.unlink()
    if (folder := shards.folder_of(path)) is not None and folder.exists():
        shutil.rmtree(folder)


def remove_temporaries(directory: str | Path) -> None:
    """Delete what an interrupted `save` left. Only while nothing else writes there."""
    for path in Path(directory).glob("*.tmp"):
        if _OUR_TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
    for path in Path(directory).glob("step-*"):
        if _OUR_SHARDS.fullmatch(path.name) and not path.with_name(f"{path.name}.pt").exists():
            shutil.rmtree(path)


def _is_valid(path: Path) -> bool:
    if shards.folder_of(path) is None:
        return is_valid(path)
    try:
        shards.load_rest(path)
    except CheckpointError:
        return False
    return True


def _step_files(directory: Path) -> list[tuple[int, Path]]:
    """By step, newest first."""
    numbered = [(int(match[1]), path) for path in directory.glob("*") if (match := _STEP_FILE.fullmatch(path.name))]
    return sorted(numbered, reverse=True)
