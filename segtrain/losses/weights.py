"""Class weights: checking given ones, and the formulas that make them from the number of pixels of each class."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

Method = Literal["auto", "inverse_frequency", "median_frequency", "effective_number"]


class FromLabels:
    """Marks class weights: a config may also name a method, which counts the training labels."""

    written = list[float] | Method | None


ClassWeights = Annotated[list[float] | None, FromLabels]


def weight_tensor(weights: Sequence[float] | Tensor | None, num_classes: int | None = None) -> Tensor | None:
    """The weights as a float tensor [K]; ValueError for a wrong number of them, or one that is no weight."""
    if weights is None:
        return None
    tensor = weights.detach().clone() if isinstance(weights, Tensor) else torch.tensor(weights, dtype=torch.float32)
    values = tensor.flatten().tolist()
    bad = [f"{index}: {value}" for index, value in enumerate(values) if not (math.isfinite(value) and value >= 0)]
    if bad:
        raise ValueError(f"class weights hold {', '.join(bad)}; expected finite numbers >= 0, one for each class")
    if num_classes is not None and len(values) != num_classes:
        raise ValueError(f"{len(values)} class weights; expected one for each of the {num_classes} classes")
    if values and not any(values):
        raise ValueError("class weights are all 0; expected at least one class that counts")
    return tensor


def inverse_frequency(counts: Sequence[int]) -> list[float]:
    """n / (K·n_c) over the K classes present: the mean weight of a pixel is 1. Absent classes get 1."""
    present = [count for count in counts if count > 0]
    return [sum(present) / (len(present) * count) if count > 0 else 1.0 for count in counts]


def median_frequency(counts: Sequence[int], seen: Sequence[int]) -> list[float]:
    """median(f) / f_c with f_c = n_c / seen_c, seen_c the valid pixels of the images that hold class c; absent: 1.

    Eigen and Fergus, "Predicting depth, surface normals and semantic labels with a common multi-scale convolutional
    architecture", ICCV 2015.
    """
    frequency = [count / total if count > 0 else 0.0 for count, total in zip(counts, seen, strict=True)]
    median = statistics.median([f for f in frequency if f > 0] or [1.0])
    return [median / f if f > 0 else 1.0 for f in frequency]


def effective_number(counts: Sequence[int], beta: float = 0.9999) -> list[float]:
    """(1 - β) / (1 - β^n_c), scaled so that the weights of the classes present average 1; absent classes get 1.

    Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta {beta}; expected 0 <= beta < 1 (0.9999: about 10 000 pixels of a class say all)")
    raw = [(1 - beta) / -math.expm1(count * math.log(beta)) if beta and count > 0 else 1.0 for count in counts]
    present = [weight for weight, count in zip(raw, counts, strict=True) if count > 0]
    scale = len(present) / sum(present) if present else 1.0
    return [weight * scale if count > 0 else 1.0 for weight, count in zip(raw, counts, strict=True)]


def from_labels(method: Method, counts: Sequence[int], seen: Sequence[int]) -> list[float]:
    """The weights that `method` makes of the pixels of each class; `auto` is median_frequency, see there for `seen`."""
    if method == "inverse_frequency":
        return inverse_frequency(counts)
    if method == "effective_number":
        return effective_number(counts)
    return median_frequency(counts, seen)
