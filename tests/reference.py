"""Slow, plain references in float64 NumPy: what the fast code must give."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def log_softmax(logits: Array) -> Array:
    """Over axis 1."""
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def pixels(logits: Array) -> Array:
    """[B, C, *] → [n, C], in the order of the target's pixels."""
    return np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1])


def unpixels(rows: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `pixels`."""
    return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def smoothed(labels: Array, classes: int, smoothing: float, spread: str) -> Array:
    """Label smoothing as probabilities [n, C]."""
    onehot = np.eye(classes)[labels]
    if spread == "all":
        return onehot * (1 - smoothing) + smoothing / classes
    return onehot * (1 - smoothing) + (1 - onehot) * smoothing / (classes - 1)


def kept_count(p: float, n: int) -> int:
    return min(n, max(1, math.floor(p * n + 1e-6)))


def shares(hardness: Array, valid: Array, p: float) -> Array:
    """Which of n entries (1-D) are mined: 1 above the k-th, the rest shared among its ties."""
    share = np.zeros(len(hardness))
    n = int(valid.sum())
    if n == 0:
        return share
    k = kept_count(p, n)
    threshold = np.sort(hardness[valid])[::-1][k - 1]
    above = valid & (hardness > threshold)
    tied = valid & (hardness == threshold)
    share[above] = 1
    share[tied] = (k - above.sum()) / tied.sum()
    return share


def mined_cross_entropy(
    logits: Array,
    target: Array,
    p: float = 1.0,
    *,
    weight: Array | None = None,
    ignore_index: int = 255,
    smoothing: float = 0.0,
    spread: str = "all",
    scope: str = "batch",
    hardness: Array | None = None,
) -> tuple[float, Array]:
    """Mined cross entropy and its gradient for `logits`. `hardness` [n] ranks if given (rounding can swap pixels)."""
    classes = logits.shape[1]
    rows = pixels(logits.astype(np.float64))
    labels = target.astype(np.int64).ravel()
    per_class = np.ones(classes) if weight is None else weight.astype(np.float64)
    valid = labels != ignore_index
    safe = np.where(valid, labels, 0)
    valid = valid & (per_class[safe] > 0)
    rows = np.where(valid[:, None], rows, 0.0)
    log_p = log_softmax(rows)
    wanted = smoothed(safe, classes, smoothing, spread) * per_class
    value = np.where(valid, -(wanted * log_p).sum(1), 0.0)
    if hardness is None:
        hardness = -log_p[np.arange(len(safe)), safe]
    if scope == "image":
        images = np.repeat(np.arange(len(target)), len(safe) // len(target))
        share = sum(shares(hardness, valid & (images == image), p) for image in range(len(target)))
    else:
        share = shares(hardness, valid, p)
    count = (share * np.where(valid, per_class[safe], 0.0)).sum() or 1.0
    slope = np.exp(log_p) * wanted.sum(1, keepdims=True) - wanted
    gradient = slope * (share * valid)[:, None] / count
    return float((share * value).sum() / count), unpixels(gradient, logits.shape)


def binary_cross_entropy(logits: Array, wanted: Array) -> tuple[Array, Array]:
    """Elements of the binary cross entropy with logits, and their derivatives."""
    value = np.maximum(logits, 0) - logits * wanted + np.log1p(np.exp(-np.abs(logits)))
    sigmoid = np.where(logits >= 0, 1 / (1 + np.exp(-np.abs(logits))), 1 - 1 / (1 + np.exp(-np.abs(logits))))
    return value, sigmoid - wanted


def dice(p: Array, wanted: Array, valid: Array) -> float:
    """1 - mean Dice over the classes present; p and wanted [n, C]."""
    p, wanted = p[valid], wanted[valid]
    present = wanted.sum(0) > 0
    overlap = 2 * (p * wanted).sum(0) / np.maximum(p.sum(0) + wanted.sum(0), 1e-300)
    return float(1 - overlap[present].mean()) if present.any() else 0.0


def lovasz(p: Array, wanted: Array, valid: Array) -> float:
    """Lovász extension of the Jaccard loss of one image by its definition: an integral over thresholds of errors."""
    p, wanted = p[valid], wanted[valid] > 0
    losses = []
    for c in range(p.shape[1]):
        truth = wanted[:, c]
        if not truth.any():
            continue
        error = np.abs(truth - p[:, c])
        levels = np.unique(np.concatenate([[0.0], error]))
        total = 0.0
        for low, high in pairwise(levels):
            wrong = error > low  # the set of mispredicted pixels at this level
            total += (high - low) * wrong.sum() / (truth | wrong).sum()
        losses.append(total)
    return float(np.mean(losses)) if losses else 0.0
