"""What the values in label files mean: names, colours, and the table from raw values to train ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segtrain.errors import DataError
from segtrain.task import Color, Kind, Task

IGNORE = 255  # segmentation targets are uint8
IGNORED_SAMPLE = -100  # classification targets are int64; torch's own default
IGNORE_NAME = "ignore"  # the word for it in `values`

Target = npt.NDArray[np.uint8]  # [H, W] train ids


@dataclass(frozen=True)
class LabelSpec:
    """The classes of a data set and the one table that decides what each raw value becomes.

    `table` maps raw values to train ids or to `ignore_index`. Without one, raw values are train ids already and
    `ignore_index` stays itself. A raw value that it does not hold is an error: nothing is ignored by accident.
    """

    names: tuple[str, ...]
    palette: tuple[Color, ...] = ()  # RGB, one per class; made up when empty
    table: Mapping[int, int] = field(default_factory=dict)
    ignore_index: int = IGNORE
    colors: Mapping[Color, int] = field(default_factory=dict)  # RGB masks: colour → raw value

    def __post_init__(self) -> None:
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if not self.names or repeated:
            raise ValueError(f"names {list(self.names)}: needed are one or more names, each once; repeated: {repeated}")
        if not self.palette:
            object.__setattr__(self, "palette", made_up_palette(len(self.names)))
        if len(self.palette) != len(self.names):
            raise ValueError(f"palette has {len(self.palette)} colours for {len(self.names)} names; give one per name")
        if not self.table:
            ids = {i: i for i in range(len(self.names))}
            object.__setattr__(self, "table", {**ids, self.ignore_index: self.ignore_index})

    def task(self, kind: Kind) -> Task:
        """The task of learning these classes."""
        return Task(kind, self.names, self.palette, self.ignore_index)

    def decode(self, mask: npt.NDArray[Any], file: str) -> Target:
        """Train ids [H, W] of a mask as read from `file`: raw values [H, W], or colours [H, W, 3].

        Raises DataError with the file, the values that have no entry and how many pixels hold them.
        """
        raw = self._from_colors(mask, file) if mask.ndim == 3 else mask
        ids = (
            cv2.LUT(raw, self._lut)
            if raw.dtype == np.uint8
            else self._lut_wide[np.minimum(raw, self._lut_wide.size - 1)]
        )
        if (ids == self._unknown).any():
            values, counts = np.unique(raw[ids == self._unknown], return_counts=True)
            raise DataError(self._complaint(file, values.tolist(), counts.tolist()))
        return np.asarray(ids, np.uint8)

    @cached_property
    def _unknown(self) -> int:
        """A train id that nothing has, so that the table itself can mark what it does not hold."""
        return next(i for i in range(256) if i not in set(self.table.values()))

    @cached_property
    def _lut(self) -> Target:
        return self._filled(256)

    @cached_property
    def _lut_wide(self) -> Target:
        """The table for 16- and 32-bit masks; its last entry stands for all values beyond the table."""
        return self._filled(max(self.table) + 2)

    def _filled(self, size: int) -> Target:
        lut = np.full(size, self._unknown, np.uint8)
        for raw, train in self.table.items():
            if raw < size:
                lut[raw] = train
        return lut

    def _from_colors(self, mask: npt.NDArray[np.uint8], file: str) -> npt.NDArray[np.int32]:
        code = mask.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        known = {red << 16 | green << 8 | blue: raw for (red, green, blue), raw in self.colors.items()}
        seen, where = np.unique(code, return_inverse=True)
        strangers = [int(value) for value in seen if int(value) not in known]
        height, width = mask.shape[:2]
        if not known:
            raise DataError(
                f"{file} is RGB ({width}x{height}x3), a class-index image is needed. Distinct colours: {len(seen)}"
                f"{_named_palette(seen.tolist())}"
            )
        if strangers:
            counts = ", ".join(f"{_rgb(value)} ({np.count_nonzero(code == value)} pixels)" for value in strangers[:4])
            more = f", … ({len(strangers)} colours in all)" if len(strangers) > 4 else ""
            raise DataError(
                f"{file} holds colours that the palette does not have: {counts}{more}; add them to the palette"
            )
        return np.array([known[int(value)] for value in seen], np.int32)[where].reshape(height, width)

    def _complaint(self, file: str, values: Sequence[int], counts: Sequence[int]) -> str:
        held = ", ".join(f"{value} ({count} pixels)" for value, count in zip(values[:6], counts, strict=False))
        more = f", … ({len(values)} values in all)" if len(values) > 6 else ""
        return (
            f"{file} holds {held}{more}; known are {ranges(self.table)}. {len(self.names)} classes are configured. "
            f"Add the class to names, or map the value: values: {{{values[0]}: {IGNORE_NAME}}}"
        )


def from_values(values: Mapping[int, str], palette: Mapping[str, Color] | None = None) -> LabelSpec:
    """Classes in the order in which `values` (raw value → class name, or "ignore") first names them.

    Several values with one name are one class. 255 is ignored unless it is given a class.
    """
    names = tuple(dict.fromkeys(name for name in values.values() if name != IGNORE_NAME))
    ids = {name: i for i, name in enumerate(names)} | {IGNORE_NAME: IGNORE}
    table = {IGNORE: IGNORE} | {raw: ids[name] for raw, name in values.items()}
    return LabelSpec(names, tuple(palette[name] for name in names) if palette else (), table)


def made_up_palette(count: int) -> tuple[Color, ...]:
    """`count` colours that are easy to tell apart: PASCAL VOC's, which spread the bits of the index."""
    colors = []
    for index in range(count):
        red = green = blue = 0
        for bit in range(8):
            red |= (index >> (3 * bit) & 1) << (7 - bit)
            green |= (index >> (3 * bit + 1) & 1) << (7 - bit)
            blue |= (index >> (3 * bit + 2) & 1) << (7 - bit)
        colors.append((red, green, blue))
    return tuple(colors)


def ranges(values: Iterable[int]) -> str:
    """`0..6, 255` for the values 0 to 6 and 255."""
    spans: list[list[int]] = []
    for value in sorted(values):
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(f"{first}..{last}" if last > first else f"{first}" for first, last in spans)


def _rgb(code: int) -> str:
    return f"({code >> 16}, {code >> 8 & 255}, {code & 255})"


def _named_palette(codes: Iterable[int]) -> str:
    voc = {red << 16 | green << 8 | blue for red, green, blue in (*made_up_palette(21), (224, 224, 192))}
    if set(codes) <= voc:
        return ", all in the VOC palette; set palette: voc, or write indices instead of colours"
    return "; give palette: {name: [r, g, b], …} with the colour of each class, or write indices instead of colours"
