"""Samples of which no more is decoded than a window shows: for transforms that take one before anything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segtrain.data.dataset import Dataset
from segtrain.data.images import Window
from segtrain.errors import DataError
from segtrain.png import first_rows, plain_size
from segtrain.task import Sample

Read = Callable[[Path, bytes, Window | None], npt.NDArray[Any]]  # a window of a file, or all of it


@dataclass(frozen=True)
class Undecoded:
    """A PNG file in memory that behaves as the array in it: slicing it decodes no further than to the last row."""

    path: Path
    content: bytes
    shape: tuple[int, ...]
    read: Read

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, window: Window) -> npt.NDArray[Any]:
        rows, columns = (slice(*part.indices(side)) for part, side in zip(window, self.shape, strict=False))
        try:
            return self.read(self.path, first_rows(self.content, rows.stop), (rows, columns))
        except DataError:
            return self.whole()[rows, columns]  # raises again, and speaks of the whole file

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self.whole(), dtype)

    def whole(self) -> npt.NDArray[Any]:
        return self.read(self.path, self.content, None)


def undecoded(file: Path, read: Read, *rest: int) -> Undecoded | None:
    """The file as an array [H, W, *rest], if it is a PNG that can be read in part."""
    if file.suffix.lower() != ".png":
        return None
    try:
        content = file.read_bytes()
    except OSError:
        return None
    size = plain_size(content)
    return None if size is None else Undecoded(file, content, (*size, *rest), read)


@singledispatch
def opened(dataset: Dataset, index: int) -> Sample:
    """The sample, whose image and target may be `Undecoded`; what is sliced out of them is as in `dataset[index]`.

    A data set that can read a part of its files registers how for its type.
    """
    return dataset[index]
