"""Labels that are probably wrong: regions where a model contradicts the label more than it usually errs.

The score follows confident learning (Northcutt et al., JAIR 2021): a probability is judged by how sure the model is of
a class where the label names it. What a model never finds is then no sign of a wrong label.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from segtrain.task import Batch, Task

Ids = npt.NDArray[Any]  # [H, W] train ids, of any integer type
Mask = npt.NDArray[np.bool_]  # [H, W]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are outside

_EXPLAINED = 1  # px; a prediction so near to a label of its class is a matter of outlines, not of classes
_SMALLEST = 4  # px that are not explained
_GROWTH = 0.25  # of the score with the area: sixteen times as large counts twice
_LEAST = 0.05  # confidence that a class has at least, so that what is hardly ever seen does not weigh without end
_MANY = 1 << 16  # more than there are classes
_NONE = -1  # an ignored label
_LARGEST_CROP = 480  # px of a crop's longer side
_TOUCHING = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Suspect:
    """A region (or an image, in classification) with its label, and what the model says instead."""

    image: str
    box: Box
    area: int  # pixels, or 1 in classification
    label: int
    prediction: int
    confidence: float  # mean probability of the prediction
    label_probability: float  # mean probability of the label
    agreement: float  # share of the models and views that prefer the prediction to the label
    score: float
    region: Mask  # inside the box
    shown: Crop


@dataclass(frozen=True)
class Crop:
    """A suspect with its surroundings, for a picture."""

    image: npt.NDArray[np.uint8]  # [h, w, 3], RGB
    target: Ids  # [h, w]; [] in classification
    prediction: Ids  # like the target
    region: Mask  # [h, w]


class SelfConfidence:
    """How sure a model is of each class where the label names it: the mean probability of the label."""

    def __init__(self, task: Task, device: torch.device | str = "cpu") -> None:
        self._task = task
        self._sums = torch.zeros(2, task.num_classes, dtype=torch.float64, device=device)

    def update(self, probabilities: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add probabilities [B, K, *] with class ids [B, *] that count where `valid`."""
        label = torch.where(valid, target.long(), 0)
        of_label = probabilities.gather(1, label[:, None])[:, 0]
        both = torch.stack([of_label[valid].double(), torch.ones_like(of_label[valid], dtype=torch.float64)])
        self._sums.index_add_(1, label[valid], both)

    def means(self) -> npt.NDArray[np.float64]:
        """Of every class [K]; at least 0.05, and 1 for a class without labels."""
        sums, counts = self._sums.cpu().numpy()
        return np.where(counts > 0, np.maximum(sums / np.maximum(counts, 1), _LEAST), 1.0)


class Suspects:
    """Collects image after image and keeps the `keep` most suspicious regions."""

    def __init__(self, task: Task, keep: int, confidence: npt.NDArray[np.float64]) -> None:
        self._task, self._keep, self._log_confidence = task, keep, np.log(confidence)
        self._found: list[Suspect] = []

    def update(self, views: Sequence[Tensor], others: Sequence[Tensor], batch: Batch, valid: Tensor) -> None:
        """Look at a batch. The mean of the `views`, probabilities [B, K, *], decides; `others` only tell if they agree.

        Waits for the device.
        """
        mean = torch.stack(list(views)).mean(0)
        label = torch.where(valid, batch.target.long(), _NONE)
        prediction = mean.argmax(1)
        both = torch.stack([prediction, label.clamp(min=0)], 1)
        agree = [one.gather(1, both).diff(dim=1)[:, 0] < 0 for one in (*views, *others)]
        seen = (label, prediction, mean.gather(1, both), torch.stack(agree).float().mean(0))
        for index in range(len(batch.ids)):
            self._image(_Seen(*(_image_of(one[index], pixels=label.dim() == 3) for one in seen)), batch, index)

    def ranked(self) -> list[Suspect]:
        """The most suspicious first."""
        return self._found

    def _image(self, seen: _Seen, batch: Batch, index: int) -> None:
        wrong = (seen.label != _NONE) & (seen.label != seen.prediction)
        for label, prediction, box, region in regions(seen.label, seen.prediction, wrong):
            inside = slice(box[1], box[3]), slice(box[0], box[2])
            core = region
            if self._task.kind == "segmentation":
                core = region & ~_near(seen.label == prediction, box)
                if core.sum() < _SMALLEST:
                    continue
            of_prediction, of_label = seen.ours[:, inside[0], inside[1]][:, core]
            surprise = float(np.log(of_prediction / np.maximum(of_label, 1e-6)).mean())
            usual = self._log_confidence[prediction] - self._log_confidence[label]
            score = float((surprise - usual) * core.sum() ** _GROWTH)
            if score <= 0 or (len(self._found) == self._keep and score <= self._found[-1].score):
                continue
            found = Suspect(
                image=batch.ids[index],
                box=box,
                area=int(region.sum()),
                label=label,
                prediction=prediction,
                confidence=float(of_prediction.mean()),
                label_probability=float(of_label.mean()),
                agreement=float(seen.agree[inside][core].mean()),
                score=score,
                region=region,
                shown=_crop(seen, batch, index, box, region),
            )
            bisect.insort(self._found, found, key=lambda one: -one.score)
            del self._found[self._keep :]


class _Seen(NamedTuple):
    """What was seen of one image; in classification it has one pixel."""

    label: Ids  # _NONE where there is none
    prediction: Ids
    ours: npt.NDArray[np.float32]  # [2, H, W], probability of the prediction and of the label
    agree: npt.NDArray[np.float32]  # [H, W]


def regions(label: Ids, prediction: Ids, wrong: Mask) -> list[tuple[int, int, Box, Mask]]:
    """Connected wrong pixels (also over corners) of one label and one prediction: both, the box, the mask inside it."""
    found = []
    pair = label.astype(np.int64) * _MANY + prediction
    for code in np.unique(pair[wrong]).tolist():
        numbers, _ = ndimage.label(wrong & (pair == code), _TOUCHING)
        for number, place in enumerate(ndimage.find_objects(numbers), start=1):
            rows, columns = place
            box = (columns.start, rows.start, columns.stop, rows.stop)
            found.append((code // _MANY, code % _MANY, box, numbers[place] == number))
    return found


def _near(of_class: Mask, box: Box) -> Mask:
    """Inside the box, what is at most _EXPLAINED pixels from a pixel of a class."""
    left, top, right, bottom = box
    above, before = min(top, _EXPLAINED), min(left, _EXPLAINED)
    around = of_class[top - above : bottom + _EXPLAINED, left - before : right + _EXPLAINED]
    near: Mask = ndimage.binary_dilation(around, iterations=_EXPLAINED)
    return near[above : above + bottom - top, before : before + right - left]


def _crop(seen: _Seen, batch: Batch, index: int, box: Box, region: Mask) -> Crop:
    image = batch.image[index].permute(1, 2, 0).cpu().numpy()
    if batch.target.dim() == 1:
        return Crop(image, seen.label[0, 0], seen.prediction[0, 0], np.ones(image.shape[:2], bool))
    left, top, right, bottom = box
    margin = max(12, math.ceil(0.4 * max(right - left, bottom - top)))
    whole = np.zeros(seen.label.shape, bool)
    whole[top:bottom, left:right] = region
    step = -(-(max(right - left, bottom - top) + 2 * margin) // _LARGEST_CROP)
    rows, columns = (
        slice(max(0, top - margin), bottom + margin, step),
        slice(max(0, left - margin), right + margin, step),
    )
    target = batch.target[index].cpu().numpy()
    prediction = seen.prediction.astype(target.dtype)
    return Crop(*(np.ascontiguousarray(one[rows, columns]) for one in (image, target, prediction, whole)))


def _image_of(values: Tensor, *, pixels: bool) -> npt.NDArray[Any]:
    """Values [*, H, W] of an image on the host; those of a classifier [*] as [*, 1, 1]."""
    array = values.cpu().numpy()
    return array if pixels else array[..., None, None]
