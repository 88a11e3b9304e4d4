"""Image files without labels: what a trained model is asked about."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segtrain.data.images import read_image
from segtrain.data.labels import LabelSpec
from segtrain.data.paths import image_files, read_lines
from segtrain.errors import DataError
from segtrain.task import Kind, Sample


@dataclass(frozen=True)
class ImageFiles:
    """Samples whose labels are all ignored."""

    files: tuple[Path, ...]
    labels: LabelSpec
    kind: Kind

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image, ignored = read_image(self.files[index]), self.labels.ignore_index
        target = np.array(ignored) if self.kind == "classification" else np.full(image.shape[:2], ignored, np.uint8)
        return Sample(image, target, self.path(index))

    def path(self, index: int) -> str:
        return str(self.files[index])


def named_files(names: Sequence[str]) -> tuple[Path, ...]:
    """The image files that are meant, each once: by files, folders (with all in them), patterns (`*.jpg`) and lists.

    A list is a .txt file with one of these per line, relative to its folder. Raises DataError for a name without any.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = image_files(path)
        elif path.suffix == ".txt" and path.is_file():
            files = list(named_files([str(path.parent / line) for line in read_lines(path)]))
        elif path.exists() or not glob.has_magic(name):
            files = [path]
        else:
            files = sorted(Path(match) for match in glob.glob(name, recursive=True))
        if not files:
            raise DataError(f"{name}: no image there; expected image files, folders, patterns or a list in a .txt file")
        found += files
    return tuple(dict.fromkeys(found))
