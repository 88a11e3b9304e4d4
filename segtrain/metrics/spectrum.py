"""How the loss is spread over the pixels of a whole data set: what any p would mine, in the memory of a histogram.

A bin holds losses that differ by less than 0.8 %. Everything about a p follows from counts per bin: whole bins above
the threshold, and of the bin that it lies in the share that makes k exact, as if its pixels were tied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segtrain.losses.inspection import CONFIDENT, EASY, near_label_change
from segtrain.metrics.scores import Counts, Values, histogram
from segtrain.selection import ROUNDING
from segtrain.task import Task, predict, probabilities

_LOWEST, _HIGHEST = -20, 8  # exponents of 2; smaller losses are 0, larger ones are as large as the largest bin
_FINE, _COARSE = 7, 5  # bits of the mantissa: 128 bins for each factor of 2, and 32 where two models are compared


class Mined(NamedTuple):
    """What lies in the hardest p of all valid pixels, or of all images in classification; classes are in order."""

    p: float
    pixels: int
    threshold: float  # the smallest loss that is mined
    loss_share: float  # of the loss of all
    easy_share: float  # of the mined ones: loss below 0.01; many: p is too large
    confident_wrong: float  # of the mined ones: another class has a probability above 0.95; many: labels are wrong
    boundary_share: float  # of the mined ones; NaN in classification
    boundary_lift: float  # their share divided by that among all valid ones
    class_share: Values  # [K], of the mined ones
    class_lift: Values  # [K]; NaN for a class that does not occur
    same_per_image: (
        float  # Jaccard index with the pixels that the same p mines in each image for itself; NaN: no pixels
    )


class Spectrum:
    """Counts of pixels by loss, class and nearness to a boundary, added up batch by batch on the device."""

    def __init__(self, task: Task, ps: Sequence[float], distance: int, device: torch.device | str = "cpu") -> None:
        self.task, self.ps = task, tuple(ps)
        self._distance = distance
        size = _bins(_FINE)
        self._counts = torch.zeros(size * 2 * task.num_classes, dtype=torch.int64, device=device)
        self._sums = torch.zeros(size, dtype=torch.float64, device=device)
        self._confident_wrong = torch.zeros(size, dtype=torch.int64, device=device)
        self._per_image = torch.zeros(len(self.ps), size, dtype=torch.int64, device=device)
        self.ignored = 0

    def update(self, hardness: Tensor, valid: Tensor, logits: Tensor, target: Tensor) -> None:
        """Count the losses [B, *] of a batch with logits [B, C, *] and class ids [B, *]. Waits for the device."""
        bins, classes, size = _bin(hardness, _FINE), self.task.num_classes, _bins(_FINE)
        pixels = target.dim() == 3
        near = near_label_change(target, self.task.ignore_index, self._distance) if pixels else torch.zeros_like(valid)
        cell = (bins * classes + target.long()) * 2 + near
        self._counts += histogram(cell[valid], len(self._counts))
        self._sums.index_add_(0, bins[valid], hardness[valid].double())
        wrong = valid & (predict(logits) != target) & (probabilities(logits).amax(1) > CONFIDENT)
        self._confident_wrong += histogram(bins[wrong], size)
        self.ignored += int((~valid).sum())
        if pixels:
            for of_image, known in zip(hardness, valid, strict=True):
                order = _bin(of_image[known].sort(descending=True).values, _FINE)
                for row, p in zip(self._per_image, self.ps, strict=True):
                    row += histogram(order[: _count(p, len(order))], size)

    def mined(self, index: int) -> Mined:
        """What number `index` of the ps mines."""
        return self._mined(self.ps[index], self._per_image[index])

    def curve(self, ps: Sequence[float]) -> list[Mined]:
        """What others mine."""
        return [self._mined(p, None) for p in ps]

    @property
    def valid(self) -> int:
        """Pixels that count."""
        return int(self._counts.sum())

    @property
    def present(self) -> Values:
        """Share of each class among them [K]."""
        return np.asarray(self._by_class().sum((0, 2)) / max(1, self.valid))

    def natural(self, part: float = 0.99) -> float:
        """The smallest p that holds this part of the loss; NaN if there is no loss."""
        sums, counts = self._sums.cpu().numpy()[::-1], self._by_class().sum((1, 2))[::-1]
        running, before = np.cumsum(sums), np.cumsum(counts) - counts
        if not running[-1] > 0:
            return math.nan
        last = int(np.argmax(running >= part * running[-1]))
        inside = 1 - (running[last] - part * running[-1]) / sums[last]
        return float((before[last] + inside * counts[last]) / self.valid)

    def _by_class(self) -> Counts:
        counts: Counts = self._counts.view(_bins(_FINE), self.task.num_classes, 2).cpu().numpy()
        return counts

    def _mined(self, p: float, per_image: Tensor | None) -> Mined:
        counts, sums = self._by_class(), self._sums.cpu().numpy()
        all_counts = counts.sum((1, 2))
        k = _count(p, int(all_counts.sum()))
        share = _shares(all_counts, k)
        kept = (counts * share[:, None, None]).sum(0)  # [K, 2]
        of_class, present = kept.sum(1) / max(k, 1), self.present
        near, near_present = kept[:, 1].sum() / max(k, 1), counts[..., 1].sum() / max(1, self.valid)
        pixels = self.task.kind == "segmentation"
        return Mined(
            p=p,
            pixels=k,
            threshold=_threshold(share),
            loss_share=float((sums * share).sum() / sums.sum()) if sums.sum() > 0 else math.nan,
            easy_share=float((all_counts * share)[: int(_bin(torch.tensor(EASY), _FINE))].sum() / max(k, 1)),
            confident_wrong=float((self._confident_wrong.cpu().numpy() * share).sum() / max(k, 1)),
            boundary_share=float(near) if pixels else math.nan,
            boundary_lift=float(near / near_present) if pixels and near_present else math.nan,
            class_share=of_class,
            class_lift=np.divide(of_class, present, out=np.full(len(present), np.nan), where=present > 0),
            same_per_image=math.nan if per_image is None or not pixels else _jaccard(per_image, share, k),
        )


class Overlap:
    """Whether two models find the same pixels hard, from a joint histogram of their losses."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        size = _bins(_COARSE)
        self._counts = torch.zeros(size * size, dtype=torch.int64, device=device)

    def update(self, one: Tensor, other: Tensor, valid: Tensor) -> None:
        """Count the losses [B, *] of two models for the same pixels."""
        cell = _bin(one, _COARSE) * _bins(_COARSE) + _bin(other, _COARSE)
        self._counts += histogram(cell[valid], len(self._counts))

    def jaccard(self, p: float) -> float:
        """Of what one or the other mines with p, the share that both do; pixels of a threshold's bin count as mixed."""
        counts = self._counts.view(_bins(_COARSE), -1).cpu().numpy()
        k = _count(p, int(counts.sum()))
        both = float(_shares(counts.sum(1), k) @ counts @ _shares(counts.sum(0), k))
        return both / (2 * k - both) if k else math.nan


def _bins(bits: int) -> int:
    return (_HIGHEST - _LOWEST) << bits


def _bin(losses: Tensor, bits: int) -> Tensor:
    """The bin of each loss: the first bits of a positive float are in its order."""
    largest = torch.nextafter(torch.tensor(2.0**_HIGHEST), torch.tensor(0.0)).item()
    leading = losses.float().clamp(2.0**_LOWEST, largest).view(torch.int32) >> (23 - bits)
    return leading.long() - ((127 + _LOWEST) << bits)


def _edge(index: int, bits: int) -> float:
    """The smallest loss of a bin; the first one begins at 0."""
    whole, part = divmod(index, 1 << bits)
    return 2.0 ** (_LOWEST + whole) * (1 + part / (1 << bits)) if index else 0.0


def _count(p: float, n: int) -> int:
    return min(n, max(1, math.floor(p * n + ROUNDING)))


def _shares(counts: Counts, k: int) -> Values:
    """How much of each bin is among the k hardest: 1 above the threshold, a part where it lies, 0 below."""
    above = counts[::-1].cumsum()[::-1] - counts
    return np.clip((k - above) / np.maximum(counts, 1), 0, 1) * (counts > 0)


def _threshold(share: npt.NDArray[np.float64]) -> float:
    """Where the losses of the last bin that is touched divide, were they spread evenly in it."""
    touched = np.flatnonzero(share)
    if not touched.size:
        return math.nan
    index = int(touched[0])
    low, high = _edge(index, _FINE), _edge(index + 1, _FINE)
    return high - float(share[index]) * (high - low)


def _jaccard(per_image: Tensor, share: Values, k: int) -> float:
    counts = per_image.cpu().numpy()
    both = float((counts * share).sum())
    return both / max(1.0, k + int(counts.sum()) - both)
