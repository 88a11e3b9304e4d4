"""Pictures of what a model does on fixed images: arrays in, RGB pictures out (uint8 [H, W, 3]).

Small images are enlarged, so that the text fits and single pixels can be seen; large ones are shrunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segtrain.metrics import Evaluation, Probe
from segtrain.observers.canvas import (
    BLUE,
    MAGENTA,
    ORANGE,
    Entry,
    Picture,
    beside,
    framed,
    hatched,
    legend,
    line,
    padded,
    paragraph,
    stacked,
    swatch,
    with_margin,
)
from segtrain.task import Task

_SMALLEST, _LARGEST = 256, 480  # pixels of the longer side of an image as shown
_NARROWEST = 130  # pixels for the words above an image
_ALL_CLASSES = 24  # more classes than this: the legend names only those that are to be seen
_GAP = 6


def panel(probe: Probe, task: Task) -> Picture:
    """Image, label, prediction and error map side by side."""
    return panels([probe], task)


def panels(probes: Sequence[Probe], task: Task) -> Picture:
    """One row of image, label, prediction and error map for each probe, under one title and above one legend."""
    shown = [_resized(probe) for probe in probes]
    rows = [beside(_panel_tiles(probe, task), gap=_GAP) for probe in shown]
    seen = np.unique(np.concatenate([ids.ravel() for probe in shown for ids in (probe.target, probe.prediction)]))
    title = "error map: blue = right, orange = wrong (told apart by all kinds of colour vision), hatched = ignored"
    return _sheet(title, rows, _class_entries(task, set(seen.tolist())))


def overlay(probe: Probe, task: Task) -> Picture:
    """The image with its mined pixels in magenta and the boundaries of the label in white."""
    return overlays([probe], task)


def overlays(probes: Sequence[Probe], task: Task) -> Picture:
    """The overlay of each probe that was mined."""
    tiles = [_overlay_tile(_resized(probe), task) for probe in probes if probe.mined is not None]
    entries = [
        Entry(swatch(MAGENTA), "mined pixel: it counts in the loss"),
        Entry(swatch((255, 255, 255)), "boundary in the label"),
    ]
    return _sheet("which pixels the loss is averaged over", [contact_sheet(tiles)], entries)


def contact_sheet(pictures: Sequence[Picture], *, columns: int | None = None) -> Picture:
    """All pictures in a grid that is about as wide as it is high; each keeps its size."""
    width = max(picture.shape[1] for picture in pictures)
    height = max(picture.shape[0] for picture in pictures)
    columns = columns or max(1, round(math.sqrt(len(pictures) * height / width)))
    cells = [padded(one, (0, 0), (0, width - one.shape[1])) for one in pictures]
    rows = [beside(cells[start : start + columns], gap=_GAP) for start in range(0, len(cells), columns)]
    return stacked(rows, gap=_GAP)


def of_evaluation(report: Evaluation) -> dict[str, Picture]:
    """The pictures of a report by tag."""
    drawn = dict[str, Picture]()
    if report.probes:
        drawn["probe/panel"] = panels(report.probes, report.task)
    if any(probe.mined is not None for probe in report.probes):
        drawn["mining/overlay"] = overlays(report.probes, report.task)
    return drawn


def jpeg(picture: Picture) -> bytes:
    """The picture as a JPEG file, with full colour resolution: thin coloured lines stay sharp."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], options)
    return encoded.tobytes()


def _sheet(title: str, rows: Sequence[Picture], entries: Sequence[Entry]) -> Picture:
    width = max(row.shape[1] for row in rows)
    parts = [paragraph(title, width), *rows, legend(entries, width)]
    return with_margin(stacked(parts, gap=_GAP))


def _resized(probe: Probe) -> Probe:
    longest = max(probe.target.shape)
    factor = -(-_SMALLEST // longest) if longest < _SMALLEST else min(1.0, _LARGEST / longest)
    if factor == 1:
        return probe
    height, width = (max(1, round(side * factor)) for side in probe.target.shape)

    def resized(array: npt.NDArray[Any], *, smooth: bool) -> npt.NDArray[Any]:
        ways = (cv2.INTER_AREA if smooth else cv2.INTER_NEAREST) if factor < 1 else cv2.INTER_NEAREST
        return cv2.resize(array, (width, height), interpolation=ways)

    return Probe(
        image=resized(probe.image, smooth=True),
        target=resized(probe.target, smooth=False),
        prediction=resized(probe.prediction, smooth=False),
        mined=None if probe.mined is None else resized(probe.mined, smooth=True),
        loss=None if probe.loss is None else resized(probe.loss, smooth=True),
        id=probe.id,
    )


def _panel_tiles(probe: Probe, task: Task) -> list[Picture]:
    valid = probe.target != task.ignore_index
    right = probe.prediction == probe.target
    share = f"{100 * right[valid].mean():.1f} % right" if valid.any() else "all ignored"
    errors = np.where(right[..., None], BLUE, ORANGE).astype(np.uint8)
    return [
        _titled(probe.id, probe.image),
        _titled("label", colored(probe.target, task)),
        _titled("prediction", colored(probe.prediction, task)),
        _titled(f"errors: {share}", _ignored_hatched(errors, valid)),
    ]


def colored(ids: npt.NDArray[np.uint8], task: Task) -> Picture:
    """Train ids [H, W] in the colours of the palette; an id without a class is hatched."""
    table = np.zeros((256, 3), np.uint8)
    table[: task.num_classes] = task.palette
    return _ignored_hatched(table[ids], ids < task.num_classes)


def _overlay_tile(probe: Probe, task: Task) -> Picture:
    assert probe.mined is not None
    gray = cv2.cvtColor(cv2.cvtColor(probe.image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    pale = 0.5 * probe.image + 0.25 * gray
    share = 0.8 * probe.mined[..., None]
    mixed = ((1 - share) * pale + share * np.array(MAGENTA)).astype(np.uint8)
    mixed[_boundaries(probe.target)] = 255
    valid = probe.target != task.ignore_index
    kept = f"{100 * probe.mined[valid].mean():.1f} %" if valid.any() else "nothing"
    return _titled(f"{kept} mined: {probe.id}", mixed)


def _boundaries(target: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """The first pixel of each new id, going right or down."""
    found = np.zeros(target.shape, bool)
    found[:, 1:] |= target[:, 1:] != target[:, :-1]
    found[1:] |= target[1:] != target[:-1]
    return found


def _ignored_hatched(picture: Picture, valid: npt.NDArray[np.bool_]) -> Picture:
    drawn: Picture = np.where(valid[..., None], picture, hatched(*valid.shape))
    return drawn


def _titled(title: str, picture: Picture) -> Picture:
    return stacked([line(title, max(picture.shape[1], _NARROWEST)), framed(picture)])


def _class_entries(task: Task, seen: set[int]) -> list[Entry]:
    entries = [
        Entry(swatch(color), name)
        for index, (name, color) in enumerate(zip(task.classes, task.palette, strict=True))
        if task.num_classes <= _ALL_CLASSES or index in seen
    ]
    return [*entries, Entry(framed(hatched(12, 12)), "ignored")]
