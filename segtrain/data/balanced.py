"""Rare classes more often: which samples an epoch draws depends on the classes that they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from segtrain.data.counting import pixels_of_samples
from segtrain.data.crop import Share
from segtrain.data.dataset import Dataset, Over
from segtrain.data.order import Weights, sampling_weights
from segtrain.data.windows import opened
from segtrain.errors import DataError
from segtrain.registry import DATASETS
from segtrain.task import Sample


@dataclass(frozen=True)
class Balanced(Over):
    """The samples of another data set, to be drawn with other weights."""

    weights: tuple[float, ...]

    def __getitem__(self, index: int) -> Sample:
        return self.of[index]


@sampling_weights.register
def _(dataset: Balanced) -> Weights:
    return np.array(dataset.weights)


@opened.register
def _(dataset: Balanced, index: int) -> Sample:
    return opened(dataset.of, index)


@DATASETS.register("class_balanced")
def class_balanced(*, of: Annotated[Dataset, DATASETS], strength: Share = 1.0) -> Balanced:
    """A data set of which training draws samples with rare classes more often.

    With probability `strength` a draw takes a class, each as likely as the others, and then a sample that holds it;
    otherwise any sample. Weights of the data set itself go on to count. All labels are read once before training. In
    segmentation, `class_balanced` of RandomScaleCrop then shows the part of the image where a rare class is.
    """
    has = presence(of)
    per_class = has.sum(axis=0)
    if not per_class.any():
        raise DataError(f"class_balanced: none of the {len(of)} samples holds a class; there is nothing to balance")
    present = per_class > 0
    balanced = (has[:, present] / per_class[present]).sum(axis=1) / present.sum()
    weights = strength * balanced + (1 - strength) / len(of)
    given = sampling_weights(of)
    return Balanced(of, tuple((weights * len(of) * (1 if given is None else given)).tolist()))


def presence(dataset: Dataset) -> npt.NDArray[np.bool_]:
    """bool [N, K]: which classes each sample holds. Reads every label once."""
    return np.stack([*pixels_of_samples(dataset, range(len(dataset)))]) > 0
