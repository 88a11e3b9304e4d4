"""Finding data sets and their files on disk, and saying well what is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from segtrain.data.images import SUFFIXES
from segtrain.errors import DataError

ENVIRONMENT = "SEGTRAIN_DATA"
Missing = Literal["error", "skip"]


class MissingFilesError(DataError):
    """Samples that lack a file. The message names the first of them, `each` all, out of `total` that were listed."""

    def __init__(self, *messages: str, each: Sequence[str] = (), total: int = 0) -> None:
        super().__init__(*messages)
        self.each, self.total = tuple(each), total


def find_root(root: Path, needs: str, layout: str) -> Path:
    """The folder `root` that holds `needs`: in the current directory, else in $SEGTRAIN_DATA.

    `layout` describes what belongs in the folder. Raises DataError naming the places, the layout and what is there.
    """
    places = [root]
    if not root.is_absolute() and os.environ.get(ENVIRONMENT):
        places.append(Path(os.environ[ENVIRONMENT], root))
    for place in places:
        if (place / needs).exists():
            return place
    here = next((place for place in places if place.is_dir()), None)
    if here is None:
        tried = " and ".join(str(place) for place in places)
        unset = f" in {Path.cwd()} (${ENVIRONMENT} is not set)" if places == [root] and not root.is_absolute() else ""
        raise DataError(
            f"{tried} {'do' if len(places) > 1 else 'does'} not exist{unset}. Expected layout: {root}/{layout}"
        )
    deeper = [child for child in sorted(here.iterdir()) if (child / needs).exists()]
    hint = f" (one level too deep? then root: {deeper[0]})" if deeper else ""
    raise DataError(f"{here / needs} does not exist. Expected layout: {root}/{layout}. {found_in(here)}{hint}")


def found_in(folder: Path, limit: int = 8) -> str:
    """`Found in data: images/, labels/, README.md`, to end a message about what was expected there."""
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    more = f", … ({len(entries)} in all)" if len(entries) > limit else ""
    return f"Found in {folder}: {', '.join(entries[:limit]) or 'nothing'}{more}"


def image_files(folder: Path) -> list[Path]:
    """All files below `folder` whose suffix is that of an image, sorted."""
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def read_lines(file: Path) -> list[str]:
    """The lines of a list file that are not empty, without the spaces around them."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()  # editors of Windows begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a list of files: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def name_in(root: Path, file: Path) -> str:
    """How messages call the file: its path below `root`, or all of it where it lies elsewhere."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def some(items: Sequence[str], limit: int = 4) -> str:
    """The first items, and how many there are if those are not all."""
    return ", ".join(items[:limit]) + (f", … ({len(items)} in all)" if len(items) > limit else "")
