"""What the values in label files mean: names, colours, and the table from raw values to train ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from segtrain.data.paths import some
from segtrain.errors import DataError
from segtrain.task import Color, Kind, Task

IGNORE = 255  # segmentation targets are uint8
IGNORED_SAMPLE = -100  # classification targets are int64; torch's own default
IGNORE_NAME = "ignore"  # the word for it in `values` and palettes
OWN_VALUES = "Files with values of your own are read by name: folder_pairs or manifest"
VOC_BORDER: Color = (224, 224, 192)  # the colour of PASCAL VOC's index 255

Palette = dict[str, Color] | Literal["voc"]
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
    colors: Mapping[Color, int] = field(default_factory=dict)  # of RGB masks: colour → train id
    configured: bool = False  # by keys of the configuration, which may be changed; else by the layout

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
        """Train ids [H, W] of a mask as read from `file`: raw values [H, W], or colours uint8 [H, W, 3].

        Raises DataError with the file, the values or colours that have no entry and how many pixels hold them.
        """
        if mask.ndim == 3:
            raw = mask[..., 0].astype(np.int32) << 16 | mask[..., 1].astype(np.int32) << 8 | mask[..., 2]
            if not self.colors:
                raise DataError(_no_palette(raw, file, configured=self.configured))
            ids: Target = self._color_lut[raw]
        elif mask.dtype == np.uint8:
            raw, ids = mask, np.asarray(cv2.LUT(mask, self._lut), np.uint8)
        else:
            raw = mask.astype(np.int32)
            ids = self._wide_lut[raw.clip(-1, self._wide_lut.size - 1)]  # -1 is the last entry as well
        strange = ids == self._unknown
        if strange.any():
            raise DataError(self._complaint(file, raw[strange], in_colors=mask.ndim == 3))
        return ids

    @cached_property
    def _unknown(self) -> int:
        """A train id that nothing has, so that the tables themselves mark what they do not hold."""
        return next(i for i in range(256) if i not in {*self.table.values(), *self.colors.values()})

    @cached_property
    def _lut(self) -> Target:
        return self._filled(256, self.table)

    @cached_property
    def _wide_lut(self) -> Target:
        """For 16- and 32-bit masks; its last entry stands for all values outside of it."""
        return self._filled(max(self.table) + 2, self.table)

    @cached_property
    def _color_lut(self) -> Target:
        """All 2^24 colours: 16 MB, many times quicker than a search per pixel."""
        return self._filled(
            1 << 24, {red << 16 | green << 8 | blue: i for (red, green, blue), i in self.colors.items()}
        )

    def _filled(self, size: int, table: Mapping[int, int]) -> Target:
        lut = np.full(size, self._unknown, np.uint8)
        for raw, train in table.items():
            if raw < size:
                lut[raw] = train
        return lut

    def _complaint(self, file: str, strange: npt.NDArray[np.integer[Any]], *, in_colors: bool) -> str:
        values, counts = np.unique(strange, return_counts=True)
        names = [_rgb(value) if in_colors else str(value) for value in values.tolist()]
        held = some([f"{name} ({count} pixels)" for name, count in zip(names, counts, strict=True)], 6)
        grey_levels = self.table.get(IGNORE) != IGNORE  # 255 is a class, so those between it and 0 are shades
        if len(values) > 20 and (in_colors or grey_levels):
            cure = "; so many are blends at smoothed borders: export the masks without anti-aliasing, never resized"
            return f"{file} holds {'colours' if in_colors else 'values'} without a meaning: {held}{cure}"
        if in_colors:
            cure = "; add them to palette" if self.configured else "; is it of another data set, or converted?"
            return f"{file} holds colours that the palette does not have: {held}{cure}"
        known = f"{file} holds {held}; known are {ranges(self.table)}"
        if not self.configured:
            return f"{known}, as this data set has it. Is the file of another one, or converted? {OWN_VALUES}"
        return (
            f"{known}. {len(self.names)} classes are configured. "
            f"Add the class to names, or map it: values: {{{values[0]}: {IGNORE_NAME}}}"
        )


def from_values(values: Mapping[int, str], colors: Mapping[str, Color] | None = None) -> LabelSpec:
    """Classes in the order in which `values` (raw value → class name, or "ignore") first names them.

    Several values with one name are one class. 255 is ignored unless it is given a class. `colors` of all names
    (and perhaps of "ignore") are those of RGB masks.
    """
    names = tuple(dict.fromkeys(name for name in values.values() if name != IGNORE_NAME))
    ids = {name: i for i, name in enumerate(names)} | {IGNORE_NAME: IGNORE}
    if len(names) > 254:
        raise ValueError(f"{len(names)} classes do not fit into uint8 labels; 254 do")
    table = {IGNORE: IGNORE} | {raw: ids[name] for raw, name in values.items()}
    if not colors:
        return LabelSpec(names, table=table)
    if {*colors} - {IGNORE_NAME} != {*names}:
        raise ValueError(f"palette has the names {sorted(colors)}, the classes are {sorted(names)}; they must agree")
    palette = tuple(colors[name] for name in names)
    return LabelSpec(names, palette, table, colors={color: ids[name] for name, color in colors.items()})


def given_labels(names: Sequence[str] | None, values: Mapping[int, str] | None, palette: Palette | None) -> LabelSpec:
    """The labels that a config describes by names (of raw values 0, 1, …), by `values`, or by the palette alone."""
    colors = palette if isinstance(palette, dict) else {}
    if names and values:
        raise ValueError("names and values both give the classes; leave one of them out")
    twice = [name for name in names or () if list(names or ()).count(name) > 1]
    if twice:
        raise ValueError(f"names has {twice[0]!r} more than once; to merge raw values into one class use values")
    table = values or dict(enumerate(names or [name for name in colors if name != IGNORE_NAME]))
    if not table:
        raise ValueError("the classes are not given; give names: [..], values: {0: ..} or palette: {name: [r, g, b]}")
    labels = replace(from_values(table, colors), configured=True)
    if palette != "voc":
        return labels
    voc = {color: labels.table[raw] for raw, color in enumerate(made_up_palette(256)) if raw in labels.table}
    return replace(labels, colors=voc | {VOC_BORDER: IGNORE})


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
    return f"[{code >> 16}, {code >> 8 & 255}, {code & 255}]"


def _no_palette(codes: npt.NDArray[np.int32], file: str, *, configured: bool) -> str:
    height, width = codes.shape
    seen = set(np.unique(codes).tolist())
    cure = "give palette: {name: [r, g, b], …}, or write indices instead of colours"
    if all(code == (code & 255) * 0x010101 for code in seen):
        cure = "all are grey, so each value was saved three times; save it once, as 8-bit grey"
    elif not configured:
        cure = "this data set has indices: is the file of another one, or a picture of the labels?"
    elif seen <= {red << 16 | green << 8 | blue for red, green, blue in (*made_up_palette(21), VOC_BORDER)}:
        cure = "all in the VOC palette; set palette: voc, or write indices instead of colours"
    return f"{file} is RGB ({width}x{height}x3), a class-index image is needed. Distinct colours: {len(seen)}; {cure}"
