"""Charts of a loss over pixels and of a confusion matrix: arrays in, RGB pictures out (uint8 [H, W, 3])."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segtrain.metrics.evaluation import Evaluation
from segtrain.observers.canvas import (
    BLUE,
    FAINT,
    GAP,
    INK,
    LINE,
    MAGENTA,
    ORANGE,
    PAPER,
    Color,
    Entry,
    Picture,
    beside,
    blank,
    fitted,
    legend,
    line,
    padded,
    paragraph,
    stacked,
    swatch,
    text_width,
    with_margin,
    write,
)

Losses = npt.NDArray[Any]  # float, any shape

_WIDTH, _HEIGHT = 330, 220  # of the area inside the axes: a card of TensorBoard is about 350 wide
_LEFT, _RIGHT = 46, 20  # for the numbers at the axes
_GRAY: Color = (150, 160, 170)
_NATURAL = 0.99  # the natural p holds this share of the loss
_MOST_CLASSES = 30
_CELL, _LONGEST_NAME = 38, 150
_BAR, _LONGEST_PAIR = 200, 560


def curve(loss: Losses, valid: npt.NDArray[np.bool_], top_p: float | None) -> Picture:
    """p → share of the loss that lies in the hardest p of the valid pixels, on a logarithmic scale of p.

    Marked are `top_p` and the natural p, the smallest that holds 99 % of the loss.
    """
    title = "How much of the loss lies in the hardest share p of the pixels"
    losses = np.sort(_finite(loss[valid]).astype(np.float64))[::-1]
    total = losses.sum()
    if not total > 0:
        return _without_loss(title)
    held = np.cumsum(losses) / total
    axes = _Axes(0.001, 1.0, ((0.001, "0.1 %"), (0.01, "1 %"), (0.1, "10 %"), (1.0, "100 %")))
    area = axes.area(((0.0, "0 %"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (1.0, "100 %")))
    shares = np.geomspace(axes.low, axes.high, _WIDTH)
    heights = held[np.clip(np.ceil(shares * len(losses)).astype(int) - 1, 0, None)]
    natural = float(np.argmax(held >= _NATURAL) + 1) / len(losses)
    axes.vertical(area, natural, BLUE)
    entries = [Entry(swatch(BLUE), f"natural p {_percent(natural)}: holds 99 % of the loss")]
    if top_p is not None:
        axes.vertical(area, top_p, MAGENTA)
        kept = held[min(len(held), max(1, round(top_p * len(held)))) - 1]
        entries.insert(0, Entry(swatch(MAGENTA), f"top_p {_percent(top_p)}: holds {_percent(kept)} of the loss"))
    points = np.stack([_LEFT + np.arange(_WIDTH), _y(heights)], 1)
    cv2.polylines(area, [points.astype(np.int32)], False, INK, 2, cv2.LINE_AA)
    return _chart(title, area, entries)


def histogram(loss: Losses, threshold: float | None, top_p: float | None) -> Picture:
    """How many of the pixels have which loss, on a logarithmic scale; mined are those from `threshold` on."""
    title = "How many pixels have which loss (logarithmic scale; the ends hold everything beyond)"
    losses = _finite(loss).astype(np.float64)  # float32 has no 1e-4, so that what is clipped to it would fall out
    if not losses.size:
        return _without_loss(title)
    axes = _Axes(
        1e-4, 10.0, ((1e-4, "0.0001"), (1e-3, "0.001"), (0.01, "0.01"), (0.1, "0.1"), (1.0, "1"), (10.0, "10"))
    )
    edges = np.geomspace(axes.low, axes.high, 56)
    clipped = np.clip(losses, axes.low, axes.high)
    mined = losses >= (np.inf if threshold is None else threshold)
    parts = [np.histogram(clipped[which], edges)[0] / losses.size for which in (mined, ~mined)]
    top = _round_number(float((parts[0] + parts[1]).max()))
    area = axes.area(((0.0, "0 %"), (0.5, _percent(top / 2)), (1.0, _percent(top))))
    columns = axes.columns(edges)
    for left, right, kept, rest in zip(columns, columns[1:], *parts, strict=False):
        cv2.rectangle(area, (left + 1, _y((kept + rest) / top)), (right - 1, _y(0.0)), _GRAY, -1)
        if kept:
            cv2.rectangle(area, (left + 1, _y(kept / top)), (right - 1, _y(0.0)), MAGENTA, -1)
    entries = [Entry(swatch(_GRAY), "not mined" if threshold is not None else "all pixels")]
    if threshold is not None:
        axes.vertical(area, threshold, INK)
        share = "" if top_p is None else f"top_p {_percent(top_p)}, "
        entries.insert(0, Entry(swatch(MAGENTA), f"mined: {share}loss >= {threshold:.3g}"))
    return _chart(title, area, entries)


def classes(kept: Losses, valid: Losses, names: Sequence[str], limit: int = 20) -> Picture:
    """The share of each class in what is kept above its share in what is valid, by the lift between them."""
    title = "Whose pixels are mined: share of each class in the mined and in all pixels (lift = mined / all)"
    if not kept.sum() > 0:
        return _only_words(title, "nothing is mined")
    shares, of_all = kept / kept.sum(), valid / valid.sum()
    present = [index for index in np.argsort(-shares / np.maximum(of_all, 1e-12), kind="stable") if valid[index]]
    if len(present) > limit:
        title += f"; the {limit} of {len(present)} classes with the highest lift"
    present = present[:limit]
    most, longest = max(shares[present].max(), of_all[present].max()), max(text_width(names[i]) for i in present)
    rows = list[Picture]()
    for index in present:
        lift = f"lift {shares[index] / of_all[index]:.2g}"
        bars = blank(2 * LINE - 6, _BAR + _RIGHT + text_width("100.0 %   lift 0.001"))
        for top, share, color in ((2, shares[index], MAGENTA), (LINE - 4, of_all[index], _GRAY)):
            end = round(_BAR * share / most)
            cv2.rectangle(bars, (0, top), (end, top + LINE - 9), color, -1)
            write(bars, f"{100 * share:.1f} %{f'   {lift}' if color == MAGENTA else ''}", end + GAP, top - 4)
        name = line(fitted(names[index], _LONGEST_NAME), min(longest, _LONGEST_NAME))
        rows.append(beside([padded(name, (8, 0), (0, 0)), bars], gap=2 * GAP))
    entries = [Entry(swatch(MAGENTA), "of the mined pixels"), Entry(swatch(_GRAY), "of all valid pixels")]
    width = rows[0].shape[1]
    return with_margin(stacked([paragraph(title, width), *rows, legend(entries, width)], gap=GAP))


def confusion(evaluation: Evaluation) -> Picture:
    """Of the pixels with a label (row), the share that got each prediction (column), in percent.

    With more than 30 classes only those that are confused most are shown.
    """
    counts = np.asarray(evaluation.confusion, np.float64)
    names = list(evaluation.classes)
    what = "pixels" if evaluation.task.kind == "segmentation" else "images"
    title = f"Of the {what} with the label of a row, how many percent got the prediction of a column"
    labelled = counts.sum(1)
    rates = 100 * counts / np.maximum(labelled, 1)[:, None]
    if len(names) > _MOST_CLASSES:
        wrong = counts - np.diag(np.diag(counts))
        most = np.sort(np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:_MOST_CLASSES])
        rates, labelled, names = rates[np.ix_(most, most)], labelled[most], [names[index] for index in most]
        title += f"; the {_MOST_CLASSES} of {len(counts)} classes that are confused most"
    if not labelled.all():
        title += "; - where nothing has the label"
    longest = min(_LONGEST_NAME, max(text_width(name) for name in names))
    grid = stacked([_confusion_row(row, present > 0) for row, present in zip(rates, labelled, strict=True)])
    left = stacked([_row_name(name, longest) for name in names])
    head = beside([blank(1, longest + GAP), *(_column_name(name, longest) for name in names)])
    body = padded(stacked([head, beside([left, grid])], gap=2), (0, 1), (0, 1))
    body[-1, longest + GAP :] = body[-len(grid) - 1 :, -1] = FAINT  # the cells have lines above and to the left only
    return with_margin(stacked([paragraph(title, max(body.shape[1], 300)), body], gap=GAP))


def confused(report: Evaluation, limit: int = 15) -> Picture:
    """The pairs of classes that are confused most: how many of the images of the label got the prediction."""
    pairs = report.confused(limit)
    title = "Most confused: of the images of a class, how many were taken for another"
    if not pairs:
        return _only_words(title, "nothing is confused")
    texts = [f"{pair.label}, taken for {pair.prediction}" for pair in pairs]
    numbers = [f"{pair.count} of {pair.labelled}" for pair in pairs]
    names = min(_LONGEST_PAIR, max(map(text_width, texts)))
    rows = list[Picture]()
    for pair, text, number in zip(pairs, texts, numbers, strict=True):
        bar = blank(LINE, _BAR + max(map(text_width, numbers)) + GAP)
        end = round(_BAR * pair.count / pair.labelled)
        cv2.rectangle(bar, (0, 4), (end, LINE - 5), ORANGE, -1)
        write(bar, number, end + GAP, 0)
        rows.append(beside([line(text, names), bar], gap=2 * GAP))
    return with_margin(stacked([paragraph(title, rows[0].shape[1]), *rows], gap=2))


class _Axes(NamedTuple):
    """A logarithmic horizontal axis; the vertical one goes from 0 to 1."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def columns(self, values: npt.ArrayLike) -> list[int]:
        inside = np.clip(np.asarray(values, np.float64), self.low, self.high)
        share = np.log(inside / self.low) / np.log(self.high / self.low)
        return [int(column) for column in np.rint(_LEFT + share * (_WIDTH - 1))]

    def area(self, heights: Sequence[tuple[float, str]]) -> Picture:
        """Paper with grid, ticks and numbers, to draw upon."""
        picture = blank(_HEIGHT + 4 + LINE, _LEFT + _WIDTH + _RIGHT)
        for height, text in heights:
            y = int(_y(height))
            cv2.line(picture, (_LEFT, y), (_LEFT + _WIDTH - 1, y), FAINT, 1)
            write(picture, text, _LEFT - 6 - text_width(text), y - LINE // 2)
        for x, (_, text) in zip(self.columns([value for value, _ in self.ticks]), self.ticks, strict=True):
            cv2.line(picture, (x, int(_y(1.0))), (x, int(_y(0.0)) + 4), FAINT, 1)
            write(picture, text, x - text_width(text) // 2, _HEIGHT + 4)
        return picture

    def vertical(self, picture: Picture, value: float, color: Color) -> None:
        (x,) = self.columns([value])
        cv2.line(picture, (x, int(_y(1.0))), (x, int(_y(0.0))), color, 2)


def _y(height: Any) -> Any:
    """Row of a height in [0, 1]; half a line is left free above for the number at the top."""
    return np.rint(_HEIGHT - 5 - np.asarray(height) * (_HEIGHT - 5 - LINE // 2)).astype(int)


def _finite(loss: Losses) -> Losses:
    return loss[np.isfinite(loss)]


def _round_number(value: float) -> float:
    """The next of …, 0.8, 1, 2, 4, 6, 8, 10, 20, … that is not below `value`."""
    decade = 10.0 ** np.floor(np.log10(value))
    return float(next(factor * decade for factor in (1, 2, 4, 6, 8, 10) if factor * decade >= value * (1 - 1e-9)))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _without_loss(title: str) -> Picture:
    return _only_words(title, "no valid pixel has a finite loss above 0")


def _only_words(title: str, words: str) -> Picture:
    return with_margin(stacked([paragraph(title, _WIDTH), line(words, _WIDTH)]))


def _chart(title: str, area: Picture, entries: Sequence[Entry]) -> Picture:
    width = area.shape[1]
    return with_margin(stacked([paragraph(title, width), area, legend(entries, width)], gap=GAP))


def _confusion_row(rates: npt.NDArray[np.float64], present: bool) -> Picture:
    cells = list[Picture]()
    for rate in rates:
        share = rate / 100
        color = tuple(round(paper + share * (blue - paper)) for paper, blue in zip(PAPER, (0, 60, 120), strict=True))
        cell = blank(_CELL, _CELL, (color[0], color[1], color[2]))
        text = f"{rate:.0f}" if present and rate >= 0.5 else ("" if present else "-")
        write(cell, text, (_CELL - text_width(text)) // 2, (_CELL - LINE) // 2, PAPER if share > 0.5 else INK)
        cell[0] = cell[:, 0] = FAINT
        cells.append(cell)
    return beside(cells)


def _row_name(name: str, longest: int) -> Picture:
    text = fitted(name, longest)
    strip = padded(line(text, text_width(text) + GAP), (0, 0), (longest - text_width(text), 0))
    return padded(strip, ((_CELL - LINE) // 2, _CELL - LINE - (_CELL - LINE) // 2), (0, 0))


def _column_name(name: str, longest: int) -> Picture:
    """The name read from below, standing in the middle of its column."""
    upright = cv2.rotate(line(fitted(name, longest), longest + GAP), cv2.ROTATE_90_COUNTERCLOCKWISE)
    return padded(upright.astype(np.uint8), (0, 0), ((_CELL - LINE) // 2, _CELL - LINE - (_CELL - LINE) // 2))
