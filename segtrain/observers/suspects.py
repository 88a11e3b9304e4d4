"""Pictures of labels that are probably wrong: image, label and prediction side by side (uint8 [H, W, 3], RGB)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from segtrain.metrics.suspects import Suspect
from segtrain.observers.canvas import (
    GAP,
    INK,
    PAPER,
    Entry,
    Picture,
    beside,
    contact_sheet,
    framed,
    hatched,
    line,
    sheet,
    stacked,
    swatch,
    titled,
    visible,
)
from segtrain.observers.pictures import colored
from segtrain.task import Task

PER_SHEET = 10


def sheets(suspects: Sequence[Suspect], task: Task) -> list[Picture]:
    """All suspects in their order, ten on a sheet."""
    return [
        _sheet(suspects[start : start + PER_SHEET], start + 1, task) for start in range(0, len(suspects), PER_SHEET)
    ]


def _sheet(suspects: Sequence[Suspect], first: int, task: Task) -> Picture:
    tiles = [_tile(one, number, task) for number, one in enumerate(suspects, first)]
    title = f"Labels that are probably wrong, {first} to {first + len(suspects) - 1}"
    if task.kind == "classification":
        return sheet(title, [contact_sheet(tiles)])
    seen = sorted(
        {int(i) for one in suspects for ids in (one.shown.target, one.shown.prediction) for i in np.unique(ids)}
    )
    entries = [Entry(swatch(task.palette[i]), task.classes[i]) for i in seen if i < task.num_classes]
    entries += [Entry(framed(hatched(12, 12)), "ignored"), Entry(_outline_swatch(), "the suspect")]
    return sheet(f"{title}; outlined is the suspect", [contact_sheet(tiles, columns=2)], entries)


def _tile(one: Suspect, number: int, task: Task) -> Picture:
    label, prediction = task.classes[one.label], task.classes[one.prediction]
    words = f"{number}. label {label}, should be {prediction}? {100 * one.confidence:.0f} %"
    if task.kind == "classification":
        card = titled("", visible(one.shown.image, smooth=True), one.image)
        return stacked([line(words, max(card.shape[1], 256)), card])
    region = visible(one.shown.region.astype(np.uint8), smooth=False) > 0
    shown = [
        titled("", _outlined(visible(one.shown.image, smooth=True), region), one.image),
        titled(f"label: {label}", _outlined(colored(visible(one.shown.target, smooth=False), task), region)),
        titled(
            f"prediction: {prediction}",
            _outlined(colored(visible(one.shown.prediction, smooth=False), task), region),
        ),
    ]
    row = beside(shown, gap=GAP)
    return stacked([line(f"{words}, {one.area:,} px, score {one.score:.3g}", row.shape[1]), row])


def _outlined(picture: Picture, region: npt.NDArray[np.bool_]) -> Picture:
    """The region in a line of white between black ones, which is seen on every colour."""
    drawn: Picture = np.array(picture)
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, INK, 4)
    cv2.drawContours(drawn, contours, -1, PAPER, 2)
    return drawn


def _outline_swatch() -> Picture:
    picture = swatch(PAPER)
    cv2.rectangle(picture, (1, 1), (10, 10), INK, 3)
    cv2.rectangle(picture, (2, 2), (9, 9), PAPER, 1)
    return picture
