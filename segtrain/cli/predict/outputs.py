"""What predict writes: one set of files per image, each complete or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from segtrain.checkpoint import NO_SPACE
from segtrain.cli.tables import csv_bytes
from segtrain.data.paths import some
from segtrain.errors import ConfigError, DataError
from segtrain.observers.pictures import jpeg
from segtrain.png import PngRows
from segtrain.predictor import Labels, Pixels
from segtrain.task import Task
from segtrain.writing import append, replace

SUFFIXES = {
    "labels": ".png",
    "color": ".color.png",
    "overlay": ".overlay.jpg",
    "probabilities": ".probabilities.npy",
}
TABLE = "predictions.csv"
_LARGEST_OVERLAY = 4096  # pixels of its longer side: it is for people
_STRENGTH = 0.5  # of the colours over the image


class Outputs:
    """The output folder. `kinds`: which of SUFFIXES are written for each image."""

    def __init__(self, folder: Path, task: Task, kinds: Sequence[str]) -> None:
        self.folder, self.task, self.kinds = folder, task, tuple(kinds)
        self._colors = np.asarray(task.palette, np.uint8)

    def check(self, places: Sequence[tuple[str, Path]], *, folders: bool, overwrite: bool) -> None:
        """Raise an error if two inputs would be written to one place, or if anything would be overwritten."""
        taken: dict[Path, str] = {}
        for name, place in places:
            for path in [self.folder / place] if folders else self.paths(place).values():
                if (other := taken.setdefault(path, name)) != name:
                    raise DataError(
                        f"{other} and {name} would both be written to {path}; predict them into different --out "
                        "folders, or choose files by a pattern such as '*.jpg'"
                    )
        there = [str(path) for path in (*taken, self.folder / TABLE) if path.exists()]
        if there and not overwrite:
            raise ConfigError(
                f"--out {self.folder}: {some(there)} would be overwritten; choose another --out, or add --overwrite"
            )

    def begin(self, columns: Sequence[str]) -> None:
        """Make the folder and the head of predictions.csv."""
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            replace(self.folder / TABLE, csv_bytes([columns]))

    def row(self, cells: Sequence[Any]) -> None:
        """One more line of predictions.csv."""
        with self._writing():
            append(self.folder / TABLE, csv_bytes([cells]))

    def paths(self, place: Path) -> dict[str, Path]:
        """The file of each kind."""
        return {kind: self.folder / place.with_name(place.name + SUFFIXES[kind]) for kind in self.kinds}

    def write(
        self, place: Path, image: Pixels, bands: Iterator[tuple[Labels, npt.NDArray[np.float32] | None]]
    ) -> npt.NDArray[np.int64]:
        """Write labels [h, W] (and probabilities [K, h, W]) band by band; returns the pixels of each class [K]."""
        size, count = (int(image.shape[0]), int(image.shape[1])), self.task.num_classes
        paths, pixels = self.paths(place), np.zeros(count, np.int64)
        step = -(-max(size) // _LARGEST_OVERLAY)  # of an overlay, which is thinned out where it would be too large
        shown: list[Labels] = []
        top = 0
        with self._writing(), contextlib.ExitStack() as files:
            for path in paths.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            labels_file = files.enter_context(PngRows(paths["labels"], size, self.task.palette))
            color = files.enter_context(PngRows(paths["color"], size)) if "color" in paths else None
            shares = (
                files.enter_context(_array(paths["probabilities"], (count, *size)))
                if "probabilities" in paths
                else None
            )
            for labels, probabilities in bands:
                labels_file.add(labels)
                if color is not None:
                    color.add(self._colors[labels])
                if shares is not None and probabilities is not None:
                    shares[:, top : top + len(labels)] = probabilities
                if "overlay" in paths:
                    shown.append(labels[-top % step :: step, ::step])
                pixels += np.bincount(labels.ravel(), minlength=count)
                top += len(labels)
            if "overlay" in paths:
                tint = self._colors[np.concatenate(shown)]
                mixed = cv2.addWeighted(np.ascontiguousarray(image[::step, ::step]), 1 - _STRENGTH, tint, _STRENGTH, 0)
                replace(paths["overlay"], jpeg(np.asarray(mixed, np.uint8)))
        return pixels

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in NO_SPACE:
                error.filename = error.filename or self.folder
                raise
            where = error.filename or self.folder
            raise ConfigError(f"cannot write to {where}: {error.strerror}; choose another --out") from error


@contextlib.contextmanager
def _array(path: Path, shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.float16]]:
    """A float16 .npy file of this shape to be filled, which takes its name at the end."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        array = open_memmap(unfinished, mode="w+", dtype=np.float16, shape=shape)
        yield array
        array.flush()
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
