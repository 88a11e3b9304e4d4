"""Where the samples of a data set come from: their files, as far as they have some."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from segtrain.data.balanced import Balanced
from segtrain.data.cache import Cached
from segtrain.data.coco_panoptic import Panoptic
from segtrain.data.combined import Binary, Concatenated, Part
from segtrain.data.dataset import Dataset
from segtrain.data.labelled import Box, LabelledImages
from segtrain.data.pairs import Pairs


class Origin(NamedTuple):
    """What a sample is made of. Generated samples, and those of data sets that are not known here, have nothing."""

    image: Path | None = None
    label: Path | None = None
    read_label: Callable[[Path], npt.NDArray[Any]] | None = None  # raw labels: integers [H, W] or colours [H, W, 3]
    box: Box | None = None  # where in the image the labelled thing is
    whole: bool = True  # whether the sample's image is all of the file's


@singledispatch
def origin(dataset: Dataset, index: int) -> Origin:
    """The files of sample `index`. A data set of one's own joins in by `@origin.register`."""
    return Origin()


@origin.register
def _(dataset: Pairs, index: int) -> Origin:
    pair = dataset.pairs[index]
    return Origin(pair.image, pair.mask, dataset.read)


@origin.register
def _(dataset: Panoptic, index: int) -> Origin:
    pair = dataset.pairs.pairs[index]
    return Origin(pair.image, pair.mask)  # raw labels are ids of segments, which differ from image to image


@origin.register
def _(dataset: LabelledImages, index: int) -> Origin:
    item = dataset.items[index]
    return Origin(item.image, box=item.box, whole=item.box is None or dataset.margin is None)


@origin.register
def _(dataset: Binary, index: int) -> Origin:
    return origin(dataset.of, index)


@origin.register
def _(dataset: Balanced, index: int) -> Origin:
    return origin(dataset.of, index)


@origin.register
def _(dataset: Cached, index: int) -> Origin:
    return origin(dataset.of, index)


@origin.register
def _(dataset: Part, index: int) -> Origin:
    return origin(dataset.of, dataset.indices[index])


@origin.register
def _(dataset: Concatenated, index: int) -> Origin:
    return origin(*dataset.find(index))
