"""Pictures of what a model does on fixed images: arrays in, RGB pictures out (uint8 [H, W, 3]).

Small images are enlarged, so that the text fits and single pixels can be seen; large ones are shrunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segtrain.metrics.evaluation import Evaluation, Probe
from segtrain.observers import cards, charts
from segtrain.observers.canvas import (
    BLUE,
    GAP,
    LINE,
    MAGENTA,
    ORANGE,
    Entry,
    Picture,
    beside,
    contact_sheet,
    framed,
    hatched,
    legend,
    line,
    padded,
    painted,
    sheet,
    stacked,
    swatch,
    text_width,
    titled,
    visible,
    write,
)
from segtrain.task import Task

_ALL_CLASSES = 24  # more classes than this: the legend names only those that are to be seen
_MOST_IMAGES = 16  # of a batch
_MOST_PROBES = 64  # a JPEG is at most 65 535 pixels high
_RIGHT_OR_WRONG = np.array([ORANGE, BLUE] + 254 * [ORANGE], np.uint8)
_LOSS_RANGE = 1e-3, 10.0  # of the colours; the same everywhere, so that evaluations can be compared


def panel(probe: Probe, task: Task) -> Picture:
    """Image, label, prediction and error map side by side."""
    return panels([probe], task)


def panels(probes: Sequence[Probe], task: Task, what: str = "") -> Picture:
    """One row of image, label, prediction and error map for each probe, under one title and above one legend."""
    rows = [beside(_panel_tiles(probe, task), gap=GAP) for probe in probes]
    seen = set[int]().union(*(np.unique(ids).tolist() for one in probes for ids in (one.target, one.prediction)))
    errors = [Entry(swatch(BLUE), "in errors: right"), Entry(swatch(ORANGE), "in errors: wrong")]
    rows.append(legend(errors, max(row.shape[1] for row in rows)))  # apart from classes of the same colour
    return sheet(what or "Image, label, prediction and errors", rows, _class_entries(task, seen))


def overlay(probe: Probe, task: Task) -> Picture:
    """The image with its mined pixels in magenta and the boundaries of the label in white."""
    return overlays([probe], task)


def overlays(probes: Sequence[Probe], task: Task) -> Picture:
    """The overlay of each probe that was mined."""
    tiles = [_overlay_tile(probe, task) for probe in probes if probe.mined is not None]
    entries = [
        Entry(swatch(MAGENTA), "mined pixel: it counts in the loss"),
        Entry(swatch((255, 255, 255)), "boundary in the label"),
    ]
    return sheet("Which pixels the loss is averaged over", [contact_sheet(tiles)], entries)


def loss_map(probe: Probe, task: Task) -> Picture:
    """The loss of each pixel in colours on a logarithmic scale; white lines enclose what is mined."""
    return loss_maps([probe], task)


def loss_maps(probes: Sequence[Probe], task: Task) -> Picture:
    """The loss map of each probe that has a loss, above one scale."""
    tiles = [_loss_tile(probe, task) for probe in probes if probe.loss is not None]
    grid = contact_sheet(tiles)
    entries = [Entry(framed(hatched(12, 12)), "ignored")]
    if any(probe.mined is not None for probe in probes):
        entries.insert(0, Entry(swatch((255, 255, 255)), "boundary of the mined pixels"))
    return sheet("Loss of each pixel, on a logarithmic scale", [grid, _loss_scale(grid.shape[1])], entries)


def batch(images: Picture, targets: npt.NDArray[Any], ids: Sequence[str], task: Task) -> Picture:
    """What a model is trained on: up to 16 images [B, H, W, 3] with their labels, uint8 [B, H, W] or int64 [B]."""
    tiles = list[Picture]()
    for image, target, name in zip(images[:_MOST_IMAGES], targets, ids, strict=False):
        shown = visible(image, smooth=True)
        if task.kind == "classification":
            known = 0 <= int(target) < task.num_classes
            tiles.append(titled(f"{task.classes[int(target)] if known else 'ignored'}: ", shown, name))
        else:
            label = colored(visible(target, smooth=False), task)
            tiles.append(beside([titled("", shown, name), titled("label", label)]))
    entries = [] if task.kind == "classification" else _class_entries(task, set(np.unique(targets).tolist()))
    return sheet("A batch as the model sees it, after augmentation", [contact_sheet(tiles)], entries)


def samples(images: Sequence[Picture], targets: Sequence[npt.NDArray[Any]], ids: Sequence[str], task: Task) -> Picture:
    """Images of any sizes beside themselves under their labels, or with their classes in classification."""
    tiles, seen = list[Picture](), set[int]()
    for image, target, name in zip(images, targets, ids, strict=True):
        shown = visible(image, smooth=True)
        if task.kind == "classification":
            tiles.append(stacked([titled("", shown, name), line(_class_of(int(target), task), 480)]))
            continue
        seen |= set(np.unique(target).tolist())
        tinted = _tinted(shown, visible(target, smooth=False), task)
        tiles.append(beside([titled("", shown, name), titled("label", tinted)], gap=2))
    if task.kind == "classification":
        return sheet("Images and their classes", [contact_sheet(tiles)], [])
    return sheet("Images, and their labels over them", [contact_sheet(tiles)], _class_entries(task, seen))


def _class_of(target: int, task: Task) -> str:
    return f"{target} {task.classes[target]}" if 0 <= target < task.num_classes else "ignored"


def _tinted(image: Picture, target: npt.NDArray[Any], task: Task) -> Picture:
    """The image under the colours of its label, hatched where it is ignored. An outline would hide thin things."""
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    mixed: Picture = (0.35 * gray + 0.65 * colored(target, task)).astype(np.uint8)
    return mixed


def of_evaluation(report: Evaluation) -> dict[str, Picture]:
    """The pictures of a report by tag."""
    if report.task.kind == "classification":
        return cards.of_evaluation(report)
    drawn, probes, task = dict[str, Picture](), report.probes[:_MOST_PROBES], report.task
    if probes:
        drawn["probe/panel"] = panels(probes, task, "Fixed images of the validation set")
    if report.train_probes:
        drawn["probe/train"] = panels(report.train_probes[:_MOST_PROBES], task, "Fixed images of the training set")
    if report.wrong:
        drawn["val/worst"] = panels(report.wrong[:_MOST_PROBES], task, "The images with the lowest IoU")
    if any(probe.mined is not None for probe in probes):
        drawn["mining/overlay"] = overlays(probes, task)
        drawn["mining/classes"] = _classes_mined(probes, task)
    if any(probe.loss is not None for probe in probes):
        drawn["mining/loss_map"] = loss_maps(probes, task)
        drawn |= _loss_charts(probes, task)
    drawn["val/confusion"] = charts.confusion(report)
    return drawn


class Jpeg(NamedTuple):
    """A picture as a file."""

    data: bytes
    height: int
    width: int


@lru_cache(maxsize=1)  # several observers ask for the same
def jpegs_of_evaluation(report: Evaluation) -> dict[str, Jpeg]:
    """The pictures of a report by tag, drawn once."""
    return {tag: Jpeg(jpeg(picture), *picture.shape[:2]) for tag, picture in of_evaluation(report).items()}


def jpeg(picture: Picture) -> bytes:
    """The picture as a JPEG file, with full colour resolution: thin coloured lines stay sharp."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], options)
    return encoded.tobytes()


def _resized(probe: Probe) -> Probe:
    return Probe(
        image=visible(probe.image, smooth=True),
        target=visible(probe.target, smooth=False),
        prediction=visible(probe.prediction, smooth=False),
        mined=None if probe.mined is None else visible(probe.mined, smooth=True),
        loss=None if probe.loss is None else visible(probe.loss, smooth=True),
        id=probe.id,
        iou=probe.iou,
    )


def _panel_tiles(probe: Probe, task: Task) -> list[Picture]:
    shown = _resized(probe)
    right = painted(shown.prediction == shown.target, _RIGHT_OR_WRONG)
    errors = _ignored_hatched(right, shown.target != task.ignore_index)
    return [
        titled("" if probe.iou is None else f"IoU {probe.iou:.2f}: ", shown.image, probe.id),
        titled("label", colored(shown.target, task)),
        titled("prediction", colored(shown.prediction, task)),
        titled(f"errors: {_mean(100.0 * (probe.prediction != probe.target), probe, task)} % wrong", errors),
    ]


def _mean(values: npt.NDArray[Any], probe: Probe, task: Task) -> str:
    """The mean over the valid pixels of the whole probe, whatever its size as shown."""
    valid = probe.target != task.ignore_index
    return f"{values[valid].mean():.3g}" if valid.any() else "-"


def colored(ids: npt.NDArray[np.uint8], task: Task) -> Picture:
    """Train ids [H, W] in the colours of the palette; an id without a class is hatched."""
    table = np.zeros((256, 3), np.uint8)
    table[: task.num_classes] = task.palette
    return _ignored_hatched(painted(ids, table), ids < task.num_classes)


def _overlay_tile(probe: Probe, task: Task) -> Picture:
    shown = _resized(probe)
    assert probe.mined is not None
    assert shown.mined is not None
    gray = cv2.cvtColor(cv2.cvtColor(shown.image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    pale = cv2.addWeighted(shown.image, 0.5, gray, 0.25, 0)
    share = np.float32(0.8) * shown.mined.astype(np.float32)
    mixed = cv2.blendLinear(pale, np.full_like(pale, MAGENTA), 1 - share, share).astype(np.uint8, copy=False)
    mixed[_boundaries(shown.target)] = 255
    return titled(f"{_mean(100.0 * probe.mined, probe, task)} % mined: ", mixed, probe.id)


def _loss_tile(probe: Probe, task: Task) -> Picture:
    shown = _resized(probe)
    assert probe.loss is not None
    assert shown.loss is not None
    tile = _ignored_hatched(_loss_colors(shown.loss), shown.target != task.ignore_index)
    if shown.mined is not None:
        tile[_boundaries((shown.mined > 0).astype(np.uint8))] = 255
    return titled(f"mean {_mean(probe.loss, probe, task)}: ", tile, probe.id)


def _loss_colors(loss: npt.NDArray[Any]) -> Picture:
    low, high = _LOSS_RANGE
    share = np.log(np.clip(np.nan_to_num(loss, nan=high), low, high) / low) / np.log(high / low)
    colors: Picture = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_CIVIDIS)[..., ::-1]
    return colors


def _loss_scale(width: int) -> Picture:
    """The colours of the losses with numbers below, about as long as `width`."""
    low, high = _LOSS_RANGE
    decades = round(math.log10(high / low))
    long = max(200, min(width, 480) - 60)
    strip = _loss_colors(np.geomspace(low, high, long)[None].repeat(12, 0))
    scale = padded(framed(strip), (0, LINE), (30, 30))
    for decade in range(decades + 1):
        text = f"{low * 10**decade:g}"
        write(scale, text, 30 + decade * (long - 1) // decades - text_width(text) // 2, 12)
    return scale


def _loss_charts(probes: Sequence[Probe], task: Task) -> dict[str, Picture]:
    """Charts over the pixels of all probes together."""
    probes = [probe for probe in probes if probe.loss is not None]
    valid = np.concatenate([(probe.target != task.ignore_index).ravel() for probe in probes])
    loss = np.concatenate([probe.loss.ravel() for probe in probes if probe.loss is not None])
    top_p = threshold = None
    if all(probe.mined is not None for probe in probes):
        mined = np.concatenate([probe.mined.ravel() for probe in probes if probe.mined is not None])
        if (valid & (mined > 0)).any():
            top_p, threshold = float(mined[valid].mean()), float(loss[valid & (mined > 0)].min())
    return {
        "mining/curve": charts.curve(loss, valid, top_p),
        "mining/histogram": charts.histogram(loss[valid], threshold, top_p),
    }


def _classes_mined(probes: Sequence[Probe], task: Task) -> Picture:
    """How the mined pixels of all probes are divided among the classes, and how all valid pixels are."""
    labels = np.concatenate([probe.target.ravel() for probe in probes if probe.mined is not None])
    mined = np.concatenate([probe.mined.ravel() for probe in probes if probe.mined is not None])
    known = labels < task.num_classes  # ignored pixels are beyond, and never mined
    valid, kept = (np.bincount(labels[known], weights, task.num_classes) for weights in (None, mined[known]))
    return charts.classes(kept, valid, task.classes)


def _boundaries(target: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """The first pixel of each new id, going right or down."""
    found = np.zeros(target.shape, bool)
    found[:, 1:] |= target[:, 1:] != target[:, :-1]
    found[1:] |= target[1:] != target[:-1]
    return found


def _ignored_hatched(picture: Picture, valid: npt.NDArray[np.bool_]) -> Picture:
    if valid.all():
        return picture
    shown = np.ascontiguousarray(valid).view(np.uint8)
    return cv2.copyTo(picture, shown, hatched(*valid.shape)).astype(np.uint8, copy=False)


def _class_entries(task: Task, seen: set[int]) -> list[Entry]:
    entries = [
        Entry(swatch(color), name)
        for index, (name, color) in enumerate(zip(task.classes, task.palette, strict=True))
        if task.num_classes <= _ALL_CLASSES or index in seen
    ]
    return [*entries, Entry(framed(hatched(12, 12)), "ignored")]
