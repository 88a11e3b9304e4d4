"""Images with one class each: what classification data sets are, once their files are found."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segtrain.data.images import read_image
from segtrain.data.labels import IGNORED_SAMPLE, LabelSpec
from segtrain.data.order import Weights, given_weights, sampling_weights
from segtrain.data.paths import Missing, MissingFilesError, name_in, some
from segtrain.errors import DataError
from segtrain.task import Kind, Sample

LOG = logging.getLogger(__name__)


class Box(NamedTuple):
    """A part of an image in pixels; the ends are not part of it."""

    left: int
    top: int
    right: int
    bottom: int


class Labelled(NamedTuple):
    """An image file, its class, where in it the thing is, if that is known, and how often the sample is drawn."""

    image: Path
    label: int
    box: Box | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class LabelledImages:
    """Samples from image files below `root`."""

    root: Path
    items: tuple[Labelled, ...]
    labels: LabelSpec
    margin: float | None = None  # shares of its size by which a box is widened on each side; None: the whole image
    kind: Kind = "classification"

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        image = read_image(item.image)
        if item.box is not None and self.margin is not None:
            image = _cut(image, item.box, self.margin, str(item.image))
        return Sample(image, np.array(item.label), self.path(index))

    def path(self, index: int) -> str:
        return name_in(self.root, self.items[index].image)


@sampling_weights.register
def _(dataset: LabelledImages) -> Weights | None:
    return given_weights([item.weight for item in dataset.items])


def class_labels(names: tuple[str, ...]) -> LabelSpec:
    """Classes of whole images; a sample to be ignored has the label -100."""
    return LabelSpec(names, ignore_index=IGNORED_SAMPLE)


def existing_images(
    root: Path, items: list[Labelled], names: tuple[str, ...], missing: Missing, *, margin: float | None = None
) -> LabelledImages:
    """The items whose files exist. Raises DataError if a file is missing, unless those are to be skipped."""
    gone = [name_in(root, item.image) for item in items if not item.image.is_file()]
    if gone and missing == "error":
        raise MissingFilesError(
            f"{root}: {len(gone)} of {len(items)} images are missing: {some(gone)}. "
            "Set missing: skip to leave them out",
            each=gone,
            total=len(items),
        )
    kept = tuple(item for item in items if not gone or item.image.is_file())
    if not kept:
        raise DataError(f"{root}: none of the {len(items)} listed images exists")
    if gone:
        LOG.info("%s: %d of %d images are missing and left out: %s", root, len(gone), len(items), some(gone))
    return LabelledImages(root, kept, class_labels(names), margin)


def fits(box: Box, width: int, height: int) -> bool:
    """Whether the box lies in an image of this size; annotators may be off by two pixels at the edge."""
    return -2 <= box.left < box.right <= width + 2 and -2 <= box.top < box.bottom <= height + 2


def _cut(image: npt.NDArray[np.uint8], box: Box, margin: float, file: str) -> npt.NDArray[np.uint8]:
    """The widened box as far as the image reaches."""
    height, width = image.shape[:2]
    if not fits(box, width, height):
        raise DataError(
            f"{file} is {width}x{height}, but its box is {tuple(box)} (left, top, right, bottom): the image has been "
            "cropped or resized already; set crop: null to take it as it is"
        )
    across, down = margin * (box.right - box.left), margin * (box.bottom - box.top)
    rows = slice(max(0, round(box.top - down)), round(box.bottom + down))
    return np.ascontiguousarray(image[rows, max(0, round(box.left - across)) : round(box.right + across)])
