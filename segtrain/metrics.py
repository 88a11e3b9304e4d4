"""What one evaluation reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segtrain.task import Task


@dataclass(frozen=True)
class Probe:
    """One fixed image with what the model made of it."""

    image: npt.NDArray[np.uint8]  # [H, W, 3], RGB
    target: npt.NDArray[np.uint8]  # [H, W]
    prediction: npt.NDArray[np.uint8]  # [H, W]
    mined: npt.NDArray[np.float32] | None  # [H, W], how much each pixel was kept, in [0, 1]
    loss: npt.NDArray[np.float32] | None  # [H, W]
    id: str


@dataclass(frozen=True)
class Evaluation:
    """The report of one evaluation."""

    scalars: dict[str, float]
    classes: tuple[str, ...]
    confusion: npt.NDArray[Any]  # int64 [K, K], rows = label, columns = prediction
    task: Task
    probes: tuple[Probe, ...] = ()
