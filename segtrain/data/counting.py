"""How often each class occurs in the labels of a dataset."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from segtrain.data.dataset import Dataset
from segtrain.data.windows import opened

Counts = npt.NDArray[np.int64]


def count_labels(dataset: Dataset, samples: Iterable[int], *, threads: int = 4) -> Counts:
    """int64 [2, K] over `samples`: pixels of each class, and valid pixels of the images that hold it.

    In classification a sample is one pixel. Reads every label once; decoding releases the interpreter lock.
    """
    num_classes = len(dataset.labels.names)

    def of_sample(index: int) -> Counts:
        labels = np.asarray(opened(dataset, index).target).reshape(-1)
        pixels = np.bincount(labels[(labels >= 0) & (labels < num_classes)], minlength=num_classes)
        return np.stack([pixels, (pixels > 0) * pixels.sum()])

    total = np.zeros((2, num_classes), np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for counts in pool.map(of_sample, samples):
            total += counts
    return total
