"""In what order an epoch goes through a data set."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt


@singledispatch
def shuffled(dataset: Any, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A permutation of the samples, of which nothing but the generator decides.

    A data set whose samples are not equally far away may register another kind of permutation for its type.
    """
    return rng.permutation(len(dataset))
