"""The images that predict is asked about, read ahead by a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from segtrain.data.files import placed_files
from segtrain.data.images import PIXEL_LIMIT
from segtrain.errors import DataError
from segtrain.predictor import Pixels, read_pixels

_AHEAD = 4  # images; they may be large


class Item(NamedTuple):
    """An image: what messages call it, where its answer goes below the output folder, and its pixels or why not."""

    name: str
    place: Path  # without a suffix
    image: Pixels | DataError


class Inputs(Protocol):
    """All the images of a job."""

    total: int  # as far as it is known beforehand

    def places(self) -> list[tuple[str, Path]]:
        """What will be written to: names of inputs and places; a video's place is the folder of its frames."""
        ...

    def __iter__(self) -> Iterator[Item]: ...


class Images:
    """Files, folders, patterns and lists. Raises DataError for a name without any image."""

    def __init__(self, names: Sequence[str], max_pixels: int | None = None) -> None:
        self._placed, self._max_pixels = placed_files(names), max_pixels or PIXEL_LIMIT
        self.total = len(self._placed)

    def places(self) -> list[tuple[str, Path]]:
        return [(str(file), place.with_suffix("")) for file, place in self._placed]

    def __iter__(self) -> Iterator[Item]:
        for file, place in self._placed:
            try:
                image: Pixels | DataError = read_pixels(file, self._max_pixels)
            except DataError as error:
                image = error
            yield Item(str(file), place.with_suffix(""), image)


class Videos:
    """Frames of videos, every `every`th from the first on. Raises DataError for a file that is no video."""

    def __init__(self, names: Sequence[str], every: int = 1) -> None:
        self._files, self._every = [Path(name) for name in names], every
        frames = [self._opened(file).get(cv2.CAP_PROP_FRAME_COUNT) for file in self._files]
        self.total = sum(-(-max(0, int(count)) // every) for count in frames)

    def places(self) -> list[tuple[str, Path]]:
        return [(str(file), Path(file.stem)) for file in self._files]

    def __iter__(self) -> Iterator[Item]:
        for file in self._files:
            video, number = self._opened(file), 0
            while video.grab():
                number += 1
                if (number - 1) % self._every:
                    continue
                read, frame = video.retrieve()
                name, place = f"{file}#{number}", Path(file.stem, f"{number:06}")
                broken = DataError(f"{name}: this frame cannot be decoded")
                yield Item(name, place, np.ascontiguousarray(frame[..., ::-1]) if read else broken)
            if not number:
                yield Item(str(file), Path(file.stem), DataError(f"{file} is a video without a frame that can be read"))

    def _opened(self, file: Path) -> cv2.VideoCapture:
        if not file.is_file():
            raise DataError(
                f"{file} {'is not a file' if file.exists() else 'does not exist'}; --video takes video files"
            )
        video = cv2.VideoCapture(str(file))
        if not video.isOpened():
            raise DataError(
                f"{file} cannot be opened as a video: it is none, or OpenCV {cv2.__version__} has no decoder for it; "
                "convert it to MP4 (H.264) or AVI (MJPG), or to images, and leave --video out"
            )
        return video


def ahead(items: Iterator[Item], count: int = _AHEAD) -> Iterator[Item]:
    """The same items, `count` of them read by another thread while the last one is worked on."""
    with ThreadPoolExecutor(1) as reader:
        coming = deque(reader.submit(next, items, None) for _ in range(count))
        while (item := coming.popleft().result()) is not None:
            coming.append(reader.submit(next, items, None))
            yield item
