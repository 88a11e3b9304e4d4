"""Data sets made of data sets."""

from __future__ import annotations

import bisect
import itertools
import logging
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from segtrain.data.check import look_at
from segtrain.data.dataset import Dataset, Over
from segtrain.data.feed import Workers
from segtrain.data.labels import LabelSpec, Target
from segtrain.data.order import Weights, sampling_weights
from segtrain.data.windows import opened
from segtrain.errors import DataError, did_you_mean
from segtrain.registry import DATASETS
from segtrain.task import Kind, Sample

LOG = logging.getLogger(__name__)
Inner = Annotated[Dataset, DATASETS]


@dataclass(frozen=True)
class Binary:
    """The samples of a segmentation data set with two classes: those chosen, and all others."""

    of: Dataset
    chosen: tuple[int, ...]
    labels: LabelSpec
    kind: Kind = "segmentation"

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, index: int) -> Sample:
        sample = self.of[index]
        return sample._replace(target=self.merged(sample.target))

    def merged(self, target: Target) -> Target:
        """The two classes, of the other data set's target."""
        return np.asarray(cv2.LUT(target, self._table), np.uint8)

    def path(self, index: int) -> str:
        return self.of.path(index)

    @cached_property
    def _table(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        table = np.zeros(256, np.uint8)
        table[list(self.chosen)] = 1
        table[self.labels.ignore_index] = self.labels.ignore_index
        return table


@sampling_weights.register
def _(dataset: Binary) -> Weights | None:
    return sampling_weights(dataset.of)


@opened.register
def _(dataset: Binary, index: int) -> Sample:
    sample = opened(dataset.of, index)
    return sample._replace(target=dataset.merged(np.asarray(sample.target)))


@DATASETS.register("binary")
def binary(*, of: Inner, classes: list[str]) -> Binary:
    """`classes` of another data set against all others, for instance traffic signs and lights against the rest."""
    if of.kind != "segmentation":
        raise ValueError("of is a classification data set; classes of pixels are merged here")
    names = of.labels.names
    unknown = [name for name in classes if name not in names]
    if unknown or not 0 < len(classes) < len(names):
        hint = did_you_mean(unknown[0], names) if unknown else f"; give some of {', '.join(names)}, but not all"
        raise ValueError(f"classes {classes} do not divide those of the data set{hint}")
    chosen = tuple(names.index(name) for name in classes)
    labels = LabelSpec(("other", "+".join(classes)), ((0, 0, 0), of.labels.palette[chosen[0]]))
    return Binary(of, chosen, replace(labels, ignore_index=of.labels.ignore_index))


@dataclass(frozen=True)
class Concatenated:
    """The samples of several data sets with the same classes, one after the other."""

    of: tuple[Dataset, ...]

    @property
    def labels(self) -> LabelSpec:
        return self.of[0].labels

    @property
    def kind(self) -> Kind:
        return self.of[0].kind

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        dataset, inner = self.find(index)
        return dataset[inner]

    def path(self, index: int) -> str:
        dataset, inner = self.find(index)
        return dataset.path(inner)

    def find(self, index: int) -> tuple[Dataset, int]:
        """The data set that holds the sample, and its index there."""
        which = bisect.bisect_right(self._ends, index)
        return self.of[which], index - (self._ends[which - 1] if which else 0)

    @cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(len(dataset) for dataset in self.of))


@sampling_weights.register
def _(dataset: Concatenated) -> Weights | None:
    """A data set without weights joins in with 1 for each sample."""
    parts = [sampling_weights(part) for part in dataset.of]
    if all(part is None for part in parts):
        return None
    return np.concatenate(
        [np.ones(len(of)) if part is None else part for of, part in zip(dataset.of, parts, strict=True)]
    )


@opened.register
def _(dataset: Concatenated, index: int) -> Sample:
    return opened(*dataset.find(index))


@DATASETS.register("concat")
def concat(*, of: list[Inner]) -> Concatenated:
    """Several data sets as one; a data set that is listed twice counts twice."""
    if not of:
        raise ValueError("of []: there is nothing to join; list one or more data sets")
    for other in of[1:]:
        if (other.kind, other.labels.names) != (of[0].kind, of[0].labels.names):
            raise ValueError(
                f"of: the data sets have different classes: {', '.join(of[0].labels.names)} and "
                f"{', '.join(other.labels.names)}"
            )
    return Concatenated(tuple(of))


@dataclass(frozen=True)
class Part(Over):
    """Some samples of a data set."""

    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.of[self.indices[index]]

    def path(self, index: int) -> str:
        return self.of.path(self.indices[index])


@sampling_weights.register
def _(dataset: Part) -> Weights | None:
    weights = sampling_weights(dataset.of)
    return None if weights is None else weights[list(dataset.indices)]


@opened.register
def _(dataset: Part, index: int) -> Sample:
    return opened(dataset.of, dataset.indices[index])


@DATASETS.register("readable")
def readable(*, of: Inner, max_bad: Annotated[int, Field(ge=0)] = 10, workers: Workers = "auto") -> Part:
    """A data set without the samples that cannot be read or hold unknown labels, up to `max_bad` of them.

    Every sample is decoded once before training, on every rank, so all ranks leave out the same. A warning lists them.
    """
    errors = {i: found for i, found in look_at(of, range(len(of)), workers=workers) if isinstance(found, DataError)}
    if not errors:
        return Part(of, tuple(range(len(of))))
    told = [f"{len(errors)} of {len(of)} samples cannot be used:", *(str(error) for error in errors.values())]
    if len(errors) > max_bad:
        raise DataError(*told[: max_bad + 2], f"max_bad: {max_bad} allows no more; mend them, or allow {len(errors)}")
    LOG.warning("%s", "\n  ".join([*told, "They are left out."]))
    return Part(of, tuple(i for i in range(len(of)) if i not in errors))
