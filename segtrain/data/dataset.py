"""What every data set offers to the loaders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from segtrain.data.labels import LabelSpec
from segtrain.errors import DataError
from segtrain.task import Kind, Sample


class Dataset(Protocol):
    """Samples by index: decoded, in train ids, not augmented. Reading one twice gives the same.

    `len()` and `[index]` as of a sequence; DataError for a file that cannot be read, with its path.
    """

    @property
    def labels(self) -> LabelSpec:
        """The classes, and what decides which of them a raw value is."""
        ...

    @property
    def kind(self) -> Kind:
        """Whether a target is a label map or one label."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def path(self, index: int) -> str:
        """Names the sample in messages without reading it: its file, or what stands for one."""
        ...


def checked(dataset: Any, what: str) -> Dataset:
    """The data set, if it offers all that the loaders ask for; raises DataError that says what it lacks."""
    lacks = [name for name in ("labels", "kind", "path", "__len__", "__getitem__") if not hasattr(dataset, name)]
    if lacks:
        lacking = f"{what} is a {type(dataset).__name__} without {', '.join(lacks)}"
    elif not isinstance(dataset.labels, LabelSpec):
        lacking = f"labels of {what} ({type(dataset).__name__}) is a {type(dataset.labels).__name__}, not a LabelSpec"
    else:
        found: Dataset = dataset
        return found
    raise DataError(
        f"{lacking}; a data set has labels = LabelSpec(('road', 'car')), kind = 'segmentation' or 'classification', "
        "len(), [index] giving a Sample, and path(index), the sample's name in messages (docs/extend.md)"
    )


def checked_sample(sample: Any, dataset: Dataset, index: int) -> Sample:
    """The sample, if the loaders can use it; raises DataError with what is wrong about it."""
    if not isinstance(sample, Sample):
        raise DataError(f"{dataset.path(index)}: is a {type(sample).__name__}; expected a Sample(image, target, id)")
    image, target = np.asarray(sample.image), np.asarray(sample.target)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        seen = f"the image is {image.dtype} {list(image.shape)}"
        raise DataError(f"{dataset.path(index)}: {seen}; expected RGB, uint8 [height, width, 3]")
    shape = image.shape[:2] if dataset.kind == "segmentation" else ()
    if not np.issubdtype(target.dtype, np.integer) or target.shape != shape:
        expected = f"the class of each pixel, uint8 {list(shape)}" if shape else "its class, an int64 scalar array"
        seen = f"the target is {target.dtype} {list(target.shape)}"
        raise DataError(f"{dataset.path(index)}: {seen}; expected {expected}")
    return sample


@dataclass(frozen=True)
class Over:
    """A data set over another one: what it does not say of itself is as in the other. It adds how samples are read."""

    of: Dataset

    @property
    def labels(self) -> LabelSpec:
        return self.of.labels

    @property
    def kind(self) -> Kind:
        return self.of.kind

    def __len__(self) -> int:
        return len(self.of)

    def path(self, index: int) -> str:
        return self.of.path(index)
