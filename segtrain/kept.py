"""The checkpoints that a run keeps: which one to go on from, and which ones to delete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from segtrain.checkpoint import is_valid, load
from segtrain.errors import CheckpointError

_STEP_FILE = re.compile(r"step-(\d+)\.pt")
_OUR_TEMPORARY = re.compile(r"(last|best|step-\d+)\.pt\.tmp")


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
            return Found(path, load(path), tuple(damaged))
        except CheckpointError as error:
            damaged.append(error)
    if damaged:
        raise CheckpointError(*(message for error in damaged for message in error.messages))
    raise CheckpointError(f"{directory}: no checkpoint here; expected last.pt, step-*.pt or best.pt")


def newest_first(directory: Path) -> list[Path]:
    """`last.pt`, the `step-*.pt` and `best.pt`, as far as they are there."""
    names = (directory / "last.pt", *_step_files(directory), directory / "best.pt")
    return [path for path in names if path.exists()]


def prune(directory: str | Path, keep: int, step: int) -> list[str]:
    """Delete all `step-*.pt` older than the `keep` newest valid ones, and nothing else. Returns what went wrong.

    The one of `step`, where the run is, stays also where the run had gone further before.
    """
    problems: list[str] = []
    valid = 0
    for path in _step_files(Path(directory)):
        if valid >= keep and path.name != f"step-{step}.pt":
            try:
                path.unlink()
            except OSError as error:
                problems.append(f"{path}: cannot be deleted: {error.strerror}")
        elif is_valid(path):
            valid += 1
    return problems


def remove_temporaries(directory: str | Path) -> None:
    """Delete what an interrupted `save` left. Only while nothing else writes there."""
    for path in Path(directory).glob("*.tmp"):
        if _OUR_TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _step_files(directory: Path) -> list[Path]:
    """Newest first."""
    numbered = [(int(match[1]), path) for path in directory.glob("*") if (match := _STEP_FILE.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, reverse=True)]
