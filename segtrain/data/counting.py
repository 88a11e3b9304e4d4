"""How often each class occurs in the labels of a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from segtrain.data.dataset import Dataset
from segtrain.data.windows import opened

Counts = npt.NDArray[np.int64]


def count_labels(dataset: Dataset, samples: Iterable[int]) -> Counts:
    """int64 [2, K] over `samples`: pixels of each class, and valid pixels of the images that hold it."""
    total = np.zeros((2, len(dataset.labels.names)), np.int64)
    for pixels in pixels_of_samples(dataset, samples):
        total += np.stack([pixels, (pixels > 0) * pixels.sum()])
    return total


def pixels_of_samples(dataset: Dataset, samples: Iterable[int], *, threads: int = 4) -> Iterator[Counts]:
    """int64 [K] of each sample in turn: pixels of each class; in classification a sample is one pixel.

    Reads every label once; decoding releases the interpreter lock.
    """
    num_classes = len(dataset.labels.names)

    def of_sample(index: int) -> Counts:
        labels = np.asarray(opened(dataset, index).target).reshape(-1)
        return np.bincount(labels[(labels >= 0) & (labels < num_classes)], minlength=num_classes)

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(of_sample, samples)
