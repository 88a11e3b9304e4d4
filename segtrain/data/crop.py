"""Cropping at random places and scales, at the cost of the result and not of the source."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from segtrain.registry import TRANSFORMS
from segtrain.task import Sample

Array = npt.NDArray[np.uint8]
Side = Annotated[int, Field(ge=1)]
Scale = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@TRANSFORMS.register("RandomScaleCrop")
@dataclass(frozen=True)
class RandomScaleCrop:
    """A window of `size` (height, width) from the image scaled by a random factor within `scale`.

    The window is taken before it is scaled, so the cost is that of the result and not of the source; as the first
    transform it also spares decoding PNG files below it. Labels are
    scaled to the nearest pixel. Where the scaled image is smaller than the window the rest is black and ignored.
    `class_balanced`: with this probability the window shows a pixel of a class drawn from those in the image, rare ones
    as often as common ones. `max_class_share`: windows in which one class has a larger share of the labelled pixels are
    drawn again, up to ten times.
    """

    ignore_index: int
    _: KW_ONLY
    size: tuple[Side, Side]
    scale: tuple[Scale, Scale] = (0.5, 2.0)
    class_balanced: Share = 0.0
    max_class_share: Share = 1.0

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale {list(self.scale)}: the first factor must not be larger than the second")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if sample.target.ndim == 0:
            rows, columns = self._window(sample.image.shape[:2], rng)
            return sample._replace(image=self._cut(sample.image, rows, columns, 0, smooth=True))
        if self.class_balanced or self.max_class_share < 1:
            sample = sample._replace(target=np.asarray(sample.target))  # all of it is looked at
        rows, columns = self._place(sample.target, rng)
        return sample._replace(
            image=self._cut(sample.image, rows, columns, 0, smooth=True),
            target=self._cut(sample.target, rows, columns, self.ignore_index, smooth=False),
        )

    def _place(self, target: Array, rng: np.random.Generator) -> tuple[Span, Span]:
        focus = None
        if self.class_balanced and rng.random() < self.class_balanced:
            focus = self._pixel_of_a_class(target, rng)
        for _ in range(10):
            rows, columns = self._window(target.shape, rng, focus)
            if self.max_class_share == 1:
                break
            counts = self._counts(target[max(0, rows.start) : rows.stop, max(0, columns.start) : columns.stop])
            if counts.max() <= self.max_class_share * counts.sum():
                break
        return rows, columns

    def _window(
        self, shape: tuple[int, ...], rng: np.random.Generator, focus: tuple[int, int] | None = None
    ) -> tuple[Span, Span]:
        """Rows and columns of the source that the crop shows; they reach beyond it where it is too small."""
        factor = rng.uniform(*self.scale)
        spans = []
        for axis, (have, want) in enumerate(zip(shape, self.size, strict=True)):
            length = max(1, round(want / factor))
            first, last = min(0, have - length), max(0, have - length)
            if focus is not None:
                first, last = max(first, focus[axis] - length + 1), min(last, focus[axis])
            start = int(rng.integers(first, last + 1))
            spans.append(Span(start, start + length))
        return spans[0], spans[1]

    def _pixel_of_a_class(self, target: Array, rng: np.random.Generator) -> tuple[int, int] | None:
        present = np.flatnonzero(self._counts(target))
        if not len(present):
            return None
        places = np.flatnonzero(target == rng.choice(present))
        row, column = divmod(int(rng.choice(places)), target.shape[1])
        return row, column

    def _counts(self, target: Array) -> npt.NDArray[Any]:
        counts = np.asarray(cv2.calcHist([np.ascontiguousarray(target)], [0], None, [256], [0, 256])).ravel()
        counts[self.ignore_index] = 0
        return counts

    def _cut(self, source: Array, rows: Span, columns: Span, fill: int, *, smooth: bool) -> Array:
        from_rows, to_rows = rows.inside(source.shape[0], self.size[0])
        from_columns, to_columns = columns.inside(source.shape[1], self.size[1])
        size = (to_columns.stop - to_columns.start, to_rows.stop - to_rows.start)
        how = cv2.INTER_NEAREST_EXACT
        if smooth:  # linear takes every pixel into account down to half the size, many times quicker than area does
            how = cv2.INTER_AREA if 2 * size[0] < from_columns.stop - from_columns.start else cv2.INTER_LINEAR
        scaled = np.asarray(cv2.resize(source[from_rows, from_columns], size, interpolation=how), np.uint8)
        if scaled.shape[:2] == self.size:
            return scaled
        canvas = np.full((*self.size, *source.shape[2:]), fill, np.uint8)
        canvas[to_rows, to_columns] = scaled
        return canvas


class Span(NamedTuple):
    """A range of rows or columns of the source, possibly beyond its ends."""

    start: int
    stop: int

    def inside(self, have: int, want: int) -> tuple[slice, slice]:
        """The part within a source of `have` pixels, and where it lies in a result of `want` pixels."""
        first, last = max(0, self.start), min(have, self.stop)
        factor = want / (self.stop - self.start)
        begin = min(want - 1, round((first - self.start) * factor))
        return slice(first, last), slice(begin, max(begin + 1, round((last - self.start) * factor)))
