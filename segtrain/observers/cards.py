"""Pictures of a classifier's answers: each image with its label and what the model says (uint8 [H, W, 3], RGB)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from segtrain.metrics.evaluation import Evaluation, Probe
from segtrain.observers import charts
from segtrain.observers.canvas import (
    BLUE,
    MAGENTA,
    ORANGE,
    Color,
    Entry,
    Picture,
    contact_sheet,
    hatched,
    line,
    sheet,
    stacked,
    swatch,
    titled,
    visible,
)
from segtrain.task import Task

_FRAME = 5  # pixels
_MOST = 64


def of_evaluation(report: Evaluation) -> dict[str, Picture]:
    """The pictures of a report by tag."""
    drawn, task = dict[str, Picture](), report.task
    if report.probes:
        drawn["probe/panel"] = answers(
            report.probes, task, "Fixed images of the validation set and what the model says"
        )
    if report.train_probes:
        drawn["probe/train"] = answers(report.train_probes, task, "Fixed images of the training set")
    if any(probe.mined is not None for probe in report.probes):
        drawn["mining/overlay"] = mined(report.probes, task)
    if report.wrong:
        drawn["val/wrong"] = answers(report.wrong, task, "The most confident mistakes: look here for wrong labels")
    drawn["val/most_confused"] = charts.confused(report)
    drawn["val/confusion"] = charts.confusion(report)
    return drawn


def answers(probes: Sequence[Probe], task: Task, title: str) -> Picture:
    """Each image under its label and the prediction with its probability."""
    tiles = []
    for probe in probes[:_MOST]:
        right = int(probe.target) == int(probe.prediction)
        sure = "" if probe.confidence is None else f"{100 * float(probe.confidence):.0f} % "
        color = BLUE if right else ORANGE
        tiles.append(_card(probe, f"says {sure}{task.classes[int(probe.prediction)]}", color, task))
    entries = [Entry(swatch(BLUE), "right"), Entry(swatch(ORANGE), "wrong"), Entry(hatched(12, 12), "has no label")]
    return sheet(title, [contact_sheet(tiles)], entries)


def mined(probes: Sequence[Probe], task: Task) -> Picture:
    """Each image under its label and its loss, the hardest first; the mined ones in a frame."""
    hardest = sorted(probes, key=lambda probe: -_number(probe.loss))
    tiles = [
        _card(probe, f"loss {_number(probe.loss):.3g}", MAGENTA if _number(probe.mined) > 0 else None, task)
        for probe in hardest[:_MOST]
    ]
    return sheet(
        "Which of the images the loss would be averaged over",
        [contact_sheet(tiles)],
        [Entry(swatch(MAGENTA), "mined image: it counts in the loss")],
    )


def _card(probe: Probe, words: str, color: Color | None, task: Task) -> Picture:
    image: Picture = np.array(visible(probe.image, smooth=True))
    known = 0 <= int(probe.target) < task.num_classes
    if not known:
        image[: 2 * _FRAME] = hatched(2 * _FRAME, image.shape[1])
    elif color is not None:
        height, width, _ = image.shape
        for inset in range(_FRAME):
            cv2.rectangle(image, (inset, inset), (width - 1 - inset, height - 1 - inset), color, 1)
    label = task.classes[int(probe.target)] if known else "no label"
    tile = titled("", image, probe.id)
    return stacked([line(label, tile.shape[1]), line(words, tile.shape[1]), tile])


def _number(value: object) -> float:
    return 0.0 if value is None else float(np.asarray(value))
