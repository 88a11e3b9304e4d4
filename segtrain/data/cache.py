"""Decoded samples on disk: for data sets whose decoding costs more than reading what a crop needs of the pixels."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from segtrain.data.dataset import Dataset, Over
from segtrain.errors import DataError
from segtrain.registry import DATASETS
from segtrain.task import Sample


@dataclass(frozen=True)
class Cached(Over):
    """The samples of another data set, written to `folder` when they are first read and mapped from there afterwards.

    Images and targets are read-only, and a transform that takes a window of them reads no more than that from disk.
    """

    folder: Path

    def __getitem__(self, index: int) -> Sample:
        name = hashlib.sha256(f"{self.path(index)} {self.labels}".encode()).hexdigest()[:32]
        files = [self.folder / f"{name}.{part}.npy" for part in ("image", "target")]
        if not all(file.is_file() for file in files):
            sample = self.of[index]
            for file, array in zip(files, (sample.image, sample.target), strict=True):
                self._write(file, array)
            return sample
        image, target = (np.load(file, mmap_mode="r") for file in files)
        return Sample(image, target, self.path(index))

    def _write(self, file: Path, array: npt.NDArray[Any]) -> None:
        """Under another name until it is complete: several processes may write the same file."""
        unfinished = file.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as out:
                np.save(out, array)
            unfinished.replace(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise DataError(f"{file} cannot be written: {error}; give cached another folder") from error


@DATASETS.register("cached")
def cached(*, of: Annotated[Dataset, DATASETS], folder: Path) -> Cached:
    """Decode each sample once and keep it in `folder`: 8 MB for 2048x1024 pixels, of which a crop reads its part.

    The files are found by the names of the samples and the labels. After a change of the images themselves, delete the
    folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror}; give cached another folder") from error
    return Cached(of, folder)
