"""Charts as SVG text, for files and pages that are read without any program of ours. All text is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

# apart for all kinds of colour vision (Okabe and Ito, "Color Universal Design", 2008), without the faint yellow
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333")
DASHES = ("", "7 3", "2 3", "9 3 2 3")  # a second sign beside the colour, for more lines than colours

_STYLE = "font-family:system-ui,sans-serif;font-size:13px;fill:#222;background:#fff"
_ROW, _GAP, _LEFT, _TOP = 17, 12, 170, 26


def color(index: int) -> str:
    """The colour of the series with this number."""
    return COLORS[index % len(COLORS)]


def dash(index: int) -> str:
    """Its dashes, other ones for each round of colours."""
    return DASHES[index // len(COLORS) % len(DASHES)]


class Bar(NamedTuple):
    """A mean with its interval (NaN: none) and the values it comes from."""

    name: str
    mean: float
    low: float
    high: float
    values: Sequence[float]


def intervals(title: str, groups: Mapping[str, Sequence[Bar]], *, width: int = 720) -> str:
    """Groups of bars below each other around a line at 0; the names of the bars are the legend above."""
    bars = [bar for group in groups.values() for bar in group]
    names = list(dict.fromkeys(bar.name for bar in bars))
    numbers = [x for bar in bars for x in (bar.mean, bar.low, bar.high, *bar.values, 0.0) if math.isfinite(x)]
    low, high, marks = ticks(min(numbers, default=0.0), max(numbers, default=1.0))

    def at(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (width - _LEFT - 20)

    top = _TOP + _ROW * len(names) + _GAP
    parts, y = list[str](), float(top)
    for name, group in groups.items():
        parts.append(_text(_LEFT - 10, y + _ROW * len(group) / 2 + 4, name, "end"))
        for bar in group:
            parts += _bar(bar, y + _ROW / 2, at, color(names.index(bar.name)))
            y += _ROW
        y += _GAP
    grid = [_line(at(x), top - 4, at(x), y, "#222" if x == 0 else "#ddd") for x in marks]
    labels = [_text(at(x), y + 14, f"{x:+.3g}" if x else "0", "middle") for x in marks]
    legend = [
        f'<circle cx="{_LEFT + 6}" cy="{_TOP + _ROW * i + 8}" r="5" fill="{color(i)}"/>'
        + _text(_LEFT + 18, _TOP + _ROW * i + 12, name)
        for i, name in enumerate(names)
    ]
    return _svg(width, y + 24, title, [*grid, *labels, *legend, *parts])


Points = Sequence[tuple[float, float]]


def lines(
    title: str,
    series: Mapping[str, Points],
    *,
    width: int = 560,
    height: int = 230,
    x_name: str = "step",
    x_marks: Sequence[tuple[float, str]] | None = None,
) -> str:
    """Lines over a common axis with a legend below; a value that is not finite is a gap. Long ones are averaged.

    `x_marks`: what stands where on the horizontal axis (for a logarithmic one); None: round numbers.
    """
    drawn = {name: _thinned(points) for name, points in series.items()}
    known = [(x, y) for points in drawn.values() for x, y in points if math.isfinite(y)]
    left, right = min((x for x, _ in known), default=0.0), max((x for x, _ in known), default=1.0)
    low, high, marks = ticks(min((y for _, y in known), default=0.0), max((y for _, y in known), default=1.0))
    first, last = left, max(right, left + 1)
    steps = [(x, _number(x)) for x in ticks(left, right)[2]] if x_marks is None else x_marks
    inner, bottom = (58, width - 16), height - 34

    def at(x: float, y: float) -> tuple[float, float]:
        across = inner[0] + (x - first) / (last - first) * (inner[1] - inner[0])
        return across, bottom - (y - low) / (high - low) * (bottom - _TOP - 8)

    parts = [_line(inner[0], at(0, y)[1], inner[1], at(0, y)[1], "#ddd") for y in marks]
    parts += [_text(inner[0] - 6, at(0, y)[1] + 4, _number(y), "end") for y in marks]
    for x, text in steps:
        if left <= x <= right:
            across = at(x, low)[0]
            parts.append(_text(across, bottom + 16, text, "end" if across > inner[1] - 14 else "middle"))
    parts.append(_text(inner[1], bottom + 30, x_name, "end"))
    for index, points in enumerate(drawn.values()):
        parts += _polylines(points, at, index)
    legend, below = _legend(list(drawn), inner[0], height + 6, width)
    return _svg(width, below, title, [*parts, *legend])


def _polylines(points: Points, at: Callable[[float, float], tuple[float, float]], index: int) -> list[str]:
    pieces: list[list[str]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            pieces[-1].append("{:.1f},{:.1f}".format(*at(x, y)))
        elif pieces[-1]:
            pieces.append([])
    style = f'stroke="{color(index)}" stroke-dasharray="{dash(index)}"'
    drawn = []
    for piece in filter(None, pieces):
        if len(piece) == 1:
            column, _, row = piece[0].partition(",")
            drawn.append(f'<circle cx="{column}" cy="{row}" r="3" fill="{color(index)}"/>')
        drawn.append(f'<polyline points="{" ".join(piece)}" fill="none" stroke-width="2" {style}/>')
    return drawn


def _legend(names: Sequence[str], left: float, top: float, width: float) -> tuple[list[str], float]:
    """Entries in rows, and where they end."""
    parts, x, y = list[str](), left, top
    for index, name in enumerate(names):
        needed = 38 + 8.2 * len(name)
        if x > left and x + needed > width:
            x, y = left, y + _ROW
        parts.append(
            f'<line x1="{x:.0f}" y1="{y:.0f}" x2="{x + 22:.0f}" y2="{y:.0f}" stroke="{color(index)}" stroke-width="3" '
            f'stroke-dasharray="{dash(index)}"/>' + _text(x + 27, y + 4, name)
        )
        x += needed
    return parts, y + 14


def _thinned(points: Points, limit: int = 300) -> Points:
    size = -(-len(points) // limit)
    if size <= 1:
        return points
    means = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        finite = [y for _, y in part if math.isfinite(y)]
        means.append((part[-1][0], sum(finite) / len(finite) if finite else math.nan))
    return means


def _number(value: float) -> str:
    return f"{value:.10g}" if abs(value) >= 1000 else f"{value:.3g}"


def ticks(low: float, high: float, count: int = 6) -> tuple[float, float, list[float]]:
    """A range of round numbers around low and high, and about `count` marks in it."""
    span = max(high - low, abs(high) * 1e-3, 1e-6)
    step = 10.0 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if factor * step >= span / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        last += 1
    return first * step, last * step, [index * step for index in range(first, last + 1)]


def _bar(bar: Bar, y: float, at: Callable[[float], float], fill: str) -> list[str]:
    parts = [f'<circle cx="{at(x):.1f}" cy="{y:.1f}" r="2.5" fill="none" stroke="{fill}"/>' for x in bar.values]
    if math.isfinite(bar.low):
        parts.append(_line(at(bar.low), y, at(bar.high), y, fill, 2))
    if math.isfinite(bar.mean):
        parts.append(f'<circle cx="{at(bar.mean):.1f}" cy="{y:.1f}" r="5" fill="{fill}"/>')
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" style="{_STYLE}">'
    )
    paper = f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>'
    name = f'<title>{escape(title)}</title><text x="8" y="17" font-weight="600">{escape(title)}</text>'
    return "\n".join([head, paper, name, *parts, "</svg>\n"])
