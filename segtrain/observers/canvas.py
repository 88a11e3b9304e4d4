"""Drawing primitives: text that fits, boxes beside and above each other. RGB, uint8 [H, W, 3], throughout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]  # [H, W, 3], RGB
Color = tuple[int, int, int]

PAPER: Color = (255, 255, 255)
INK: Color = (32, 32, 32)
FAINT: Color = (205, 205, 205)
# apart for all kinds of colour vision (Okabe and Ito, "Color Universal Design", 2008); magenta is for mined pixels only
BLUE: Color = (0, 114, 178)
ORANGE: Color = (240, 150, 0)
MAGENTA: Color = (255, 0, 220)

LINE = 20  # height of a line of text in pixels
MARGIN = 8
GAP = 6
_SMALLEST, _LARGEST = 256, 480  # pixels of the longer side of an image as shown
_NARROWEST = 130  # pixels for the words above an image

_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


class Entry(NamedTuple):
    """One entry of a legend: a small picture [12, 12, 3] and what it means."""

    swatch: Picture
    name: str


def blank(height: int, width: int, color: Color = PAPER) -> Picture:
    """An area of one colour."""
    return np.full((height, width, 3), color, np.uint8)


def hatched(height: int, width: int) -> Picture:
    """How ignored pixels look: no palette holds a pattern, so they are never taken for a class."""
    row = np.where(np.arange(height + width) // 3 % 2 == 0, np.uint8(235), np.uint8(175))
    gray = np.lib.stride_tricks.sliding_window_view(row, width)[:height]
    return painted(gray, np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1))


def painted(values: npt.NDArray[Any], colors: npt.NDArray[np.uint8]) -> Picture:
    """Values [H, W] from 0 to 255 in `colors` [256, 3]: five times faster than to index them."""
    return cv2.applyColorMap(np.ascontiguousarray(values, np.uint8), colors[:, None]).astype(np.uint8, copy=False)


def text_width(text: str) -> int:
    """Pixels that `text` takes."""
    return int(cv2.getTextSize(text, _FONT, _SCALE, 1)[0][0])


def fitted(text: str, width: int) -> str:
    """`text`, or its beginning with dots where it is wider than `width` pixels."""
    if text_width(text) <= width:
        return text
    keep = len(text)
    while keep > 0 and text_width(text[:keep] + "..") > width:
        keep -= 1
    return text[:keep] + ".."


def fitted_end(text: str, width: int) -> str:
    """`text`, or dots and its end where it is wider than `width` pixels: the end of a path says most."""
    if text_width(text) <= width:
        return text
    start = 0
    while start < len(text) and text_width(".." + text[start:]) > width:
        start += 1
    return ".." + text[start:]


def write(picture: Picture, text: str, x: int, y: int, color: Color = INK) -> None:
    """Write one line in place; its box of height LINE has the upper left corner (x, y)."""
    cv2.putText(picture, text, (x, y + LINE - 6), _FONT, _SCALE, color, 1, cv2.LINE_AA)


def line(text: str, width: int, color: Color = INK) -> Picture:
    """One line of text as a strip [LINE, width, 3], shortened where it does not fit."""
    strip = blank(LINE, width)
    write(strip, fitted(text, width), 0, 0, color)
    return strip


def paragraph(text: str, width: int) -> Picture:
    """Text broken into as many lines as `width` needs."""
    lines, current = list[str](), ""
    for word in text.split():
        longer = f"{current} {word}".strip()
        if current and text_width(longer) > width:
            lines.append(current)
            longer = word
        current = longer
    return stacked([line(one, width) for one in [*lines, current]])


def legend(entries: Sequence[Entry], width: int) -> Picture:
    """Swatches with their names, in columns of one width, as many rows as needed."""
    widest = max((text_width(entry.name) for entry in entries), default=0)
    cell = min(18 + widest + 14, max(width, 40))
    columns = max(1, width // cell)
    picture = blank(LINE * -(-len(entries) // columns), width)
    for index, (swatch, name) in enumerate(entries):
        y, x = LINE * (index // columns), cell * (index % columns)
        picture[y + 4 : y + 16, x : x + 12] = swatch[:, : max(0, width - x)]
        write(picture, fitted(name, min(cell, width) - 18), x + 18, y)
    return picture


def swatch(color: Color) -> Picture:
    """A small framed square for a legend."""
    return framed(blank(12, 12, color))


def framed(picture: Picture) -> Picture:
    """`picture` with a grey border of one pixel drawn over its edge, so that white areas have an end."""
    bordered: Picture = picture.copy()
    height, width, _ = bordered.shape
    cv2.rectangle(bordered, (0, 0), (width - 1, height - 1), (120, 120, 120), 1)
    return bordered


def stacked(pictures: Iterable[Picture], *, gap: int = 0) -> Picture:
    """One above the other, on paper as wide as the widest, flush left."""
    return _joined(list(pictures), gap, axis=0)


def beside(pictures: Iterable[Picture], *, gap: int = 0) -> Picture:
    """One beside the other, on paper as high as the highest, flush at the top."""
    return _joined(list(pictures), gap, axis=1)


def with_margin(picture: Picture) -> Picture:
    """`picture` with paper on all sides."""
    return padded(picture, (MARGIN, MARGIN), (MARGIN, MARGIN))


def padded(picture: Picture, rows: tuple[int, int], columns: tuple[int, int]) -> Picture:
    """`picture` with paper: (above, below), (left, right)."""
    wider: Picture = np.pad(picture, (rows, columns, (0, 0)), constant_values=255)
    return wider


def visible(array: npt.NDArray[Any], *, smooth: bool) -> npt.NDArray[Any]:
    """An image or ids [H, W, *]: small ones enlarged by whole pixels, so that text fits beside, large ones shrunk."""
    longest = max(array.shape[:2])
    factor = -(-_SMALLEST // longest) if longest < _SMALLEST else min(1.0, _LARGEST / longest)
    if factor == 1:
        return array
    height, width = (max(1, round(side * factor)) for side in array.shape[:2])
    way = cv2.INTER_AREA if smooth and factor < 1 else cv2.INTER_NEAREST
    return cv2.resize(array, (width, height), interpolation=way)


def titled(title: str, picture: Picture, path: str = "") -> Picture:
    """`picture` in a frame, under a line with a title and as much of the end of a path as fits."""
    width = max(picture.shape[1], _NARROWEST)
    return stacked([line(title + fitted_end(path, width - text_width(title)), width), framed(picture)])


def contact_sheet(pictures: Sequence[Picture], *, columns: int | None = None) -> Picture:
    """All pictures in a grid that is about as wide as it is high; each keeps its size."""
    width = max(picture.shape[1] for picture in pictures)
    height = max(picture.shape[0] for picture in pictures)
    columns = columns or max(1, round(math.sqrt(len(pictures) * height / width)))
    cells = [padded(one, (0, 0), (0, width - one.shape[1])) for one in pictures]
    rows = [beside(cells[start : start + columns], gap=GAP) for start in range(0, len(cells), columns)]
    return stacked(rows, gap=GAP)


def sheet(title: str, rows: Sequence[Picture], entries: Sequence[Entry] = ()) -> Picture:
    """A whole picture: a title, rows, and a legend below."""
    width = max(row.shape[1] for row in rows)
    below = [legend(entries, width)] if entries else []
    return with_margin(stacked([paragraph(title, width), *rows, *below], gap=GAP))


def _joined(pictures: list[Picture], gap: int, *, axis: int) -> Picture:
    across = max(picture.shape[1 - axis] for picture in pictures)
    parts = list[Picture]()
    for index, picture in enumerate(pictures):
        along, rest = (gap if index else 0, 0), (0, across - picture.shape[1 - axis])
        parts.append(padded(picture, along, rest) if axis == 0 else padded(picture, rest, along))
    return np.concatenate(parts, axis)
