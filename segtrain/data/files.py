"""Image files without labels: what a trained model is asked about."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from segtrain.data.paths import image_files, read_lines
from segtrain.errors import DataError


class Placed(NamedTuple):
    """A file, and where it lies below what named it: below a folder, the fixed part of a pattern, or that of a list."""

    file: Path
    place: Path


def named_files(names: Sequence[str]) -> tuple[Path, ...]:
    """The image files that are meant, each once: by files, folders (with all in them), patterns (`*.jpg`) and lists.

    A list is a .txt file with one of these per line, relative to its folder. Raises DataError for a name without any.
    """
    return tuple(placed.file for placed in placed_files(names))


def placed_files(names: Sequence[str]) -> tuple[Placed, ...]:
    """The same with their places, which keep the folders that a name has below it."""
    found: dict[Path, Placed] = {}
    for name in names:
        for placed in _found(name):
            found.setdefault(placed.file, placed)
    return tuple(found.values())


def _found(name: str) -> Iterator[Placed]:
    path = Path(name)
    if path.suffix == ".txt" and path.is_file():
        for line in read_lines(path):
            for file, _ in _found(str(path.parent / line)):
                yield Placed(file, _below(file, path.parent))
        return
    if path.is_dir():
        files, top = image_files(path), path
    elif path.exists() or not glob.has_magic(name):
        files, top = [path], path.parent
    else:
        files = sorted(Path(match) for match in glob.glob(name, recursive=True))
        fixed = next(index for index, part in enumerate(path.parts) if glob.has_magic(part))
        top = Path(*path.parts[:fixed])
    if not files:
        raise DataError(f"{name}: no image there; expected image files, folders, patterns or a list in a .txt file")
    for file in files:
        yield Placed(file, _below(file, top))


def _below(file: Path, top: Path) -> Path:
    """The path of `file` below `top`, or its name alone where it lies elsewhere."""
    inside = file.is_relative_to(top) and ".." not in file.relative_to(top).parts
    return file.relative_to(top) if inside else Path(file.name)
