"""In what order an epoch goes through a data set, and how often it takes each sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt

from segtrain.data.dataset import Over

Weights = npt.NDArray[np.float64]


@singledispatch
def shuffled(dataset: Any, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """As many samples as there are, in an order of which nothing but the generator decides.

    Each comes once, or with `sampling_weights` so often: the r-th repetition of sample i stands as i + r·len(dataset).
    A data set whose samples are not equally far away may register another kind of order for its type.
    """
    weights = sampling_weights(dataset)
    return rng.permutation(len(dataset)) if weights is None else _weighted(weights, rng)


@singledispatch
def sampling_weights(dataset: Any) -> Weights | None:
    """How often each sample is to be drawn in relation to the others, float64 [N]; None: all alike."""
    return None


@sampling_weights.register
def _(dataset: Over) -> Weights | None:
    return sampling_weights(dataset.of)


def given_weights(weights: Sequence[float]) -> Weights | None:
    """Those of a table; None where they are all alike."""
    return None if len({*weights}) < 2 else np.array(weights, np.float64)


def _weighted(weights: Weights, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """With n draws and a share w of all weights a sample comes floor(n·w) or ceil(n·w) times, n·w on average."""
    count = len(weights)
    mixed = rng.permutation(count)  # or neighbours would share their luck
    ends = np.cumsum(weights[mixed] / weights.sum()) * count
    ends[-1] = count
    upto = np.ceil(ends - rng.random()).astype(np.int64)  # draws that samples up to each one take
    times = upto - np.concatenate([[0], upto[:-1]])
    taken = np.repeat(mixed, times)
    turns = np.arange(count) - np.repeat(upto - times, times)
    return rng.permutation(taken + turns * count)
