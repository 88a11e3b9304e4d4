"""A data set with known mistakes in its labels: `--import benchmarks.corrupted`, then {name: corrupted, of: …}.

Label regions (connected pixels of one class) are chosen at random and given one of three kinds of mistakes: swapped
(the whole region gets another class), deleted (it gets the classes around it) or shifted (by a third of its size or
more, at least 4 px per 100 px of the image's height).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from segtrain.data.combined import Inner
from segtrain.data.dataset import Over
from segtrain.registry import DATASETS
from segtrain.task import Sample

Ids = npt.NDArray[np.uint8]  # [H, W]
Kind = Literal["swapped", "deleted", "shifted"]
LARGE = 0.1  # of the image: larger regions (sky, road) are swapped, nobody forgets or shifts them
SMALL = 0.001  # of the image: smaller regions are left alone


class Mistake(NamedTuple):
    kind: Kind
    label: int  # what it was
    pixels: int  # whose label is another one now


class Truth(NamedTuple):
    target: Ids  # with mistakes
    where: npt.NDArray[np.int32]  # [H, W], number of the mistake + 1 where the label was changed, 0 elsewhere
    mistakes: tuple[Mistake, ...]
    regions: int  # that could have been chosen


@dataclass(frozen=True)
class Corrupted(Over):
    share: float
    seed: int
    size: tuple[int, int] | None

    def __getitem__(self, index: int) -> Sample:
        return self.clean(index)._replace(target=self.truth(index).target)

    def clean(self, index: int) -> Sample:
        sample = self.of[index]
        if self.size is None:
            return sample
        height, width = self.size
        image = cv2.resize(sample.image, (width, height), interpolation=cv2.INTER_AREA)
        target = cv2.resize(sample.target, (width, height), interpolation=cv2.INTER_NEAREST)
        return Sample(np.asarray(image, np.uint8), np.asarray(target, np.uint8), sample.id)

    def truth(self, index: int) -> Truth:
        """The labels of a sample with their mistakes, which are a function of (seed, index)."""
        clean = self.clean(index).target
        return corrupt(clean, self.share, self.labels.names, self.labels.ignore_index, (self.seed, index))


@DATASETS.register("corrupted")
def corrupted(
    *,
    of: Inner,
    share: Annotated[float, Field(ge=0, le=1)] = 0.02,
    seed: Annotated[int, Field(ge=0)] = 0,
    size: tuple[int, int] | None = None,
) -> Corrupted:
    """Another data set, at `size` (height and width) if given, with mistakes in a `share` of its label regions."""
    return Corrupted(of, share, seed, size)


def corrupt(clean: Ids, share: float, names: tuple[str, ...], ignored: int, seed: tuple[int, int]) -> Truth:
    rng = np.random.default_rng(seed)
    target, where = clean.copy(), np.zeros(clean.shape, np.int32)
    mistakes, regions = list[Mistake](), 0
    for label in np.unique(clean[clean != ignored]).tolist():
        pieces, count = ndimage.label(clean == label, np.ones((3, 3)))
        for number in range(1, count + 1):
            region = pieces == number
            area = region.sum() / region.size
            if area < SMALL:
                continue
            regions += 1
            if rng.random() >= share:
                continue
            kind: Kind = "swapped" if area > LARGE else ("swapped", "deleted", "shifted")[rng.integers(3)]
            changed = CHANGES[kind](clean, region, label, len(names), ignored, rng)
            new = (changed != clean) & (clean != ignored) & (where == 0)
            if new.any():
                target[new] = changed[new]
                mistakes.append(Mistake(kind, label, int(new.sum())))
                where[new] = len(mistakes)
    return Truth(target, where, tuple(mistakes), regions)


def _swapped(clean: Ids, region: Any, label: int, classes: int, ignored: int, rng: np.random.Generator) -> Ids:
    changed = clean.copy()
    changed[region] = (label + rng.integers(1, classes)) % classes
    return changed


def _deleted(clean: Ids, region: Any, label: int, classes: int, ignored: int, rng: np.random.Generator) -> Ids:
    """Each pixel gets the label of the nearest one outside."""
    rows, columns = ndimage.distance_transform_edt(
        region | (clean == ignored), return_distances=False, return_indices=True
    )
    return np.asarray(np.where(region, clean[rows, columns], clean), np.uint8)


def _shifted(clean: Ids, region: Any, label: int, classes: int, ignored: int, rng: np.random.Generator) -> Ids:
    rows, columns = np.nonzero(region)
    extent = min(np.ptp(rows), np.ptp(columns)) + 1
    far, way = max(0.04 * len(clean), rng.uniform(0.33, 0.67) * extent), rng.uniform(0, 2 * np.pi)
    moved = np.stack([rows + round(far * np.sin(way)), columns + round(far * np.cos(way))])
    inside = ((moved >= 0) & (moved < np.array(clean.shape)[:, None])).all(0)
    changed = _deleted(clean, region, label, classes, ignored, rng)
    changed[tuple(moved[:, inside])] = label
    return changed


CHANGES = {"swapped": _swapped, "deleted": _deleted, "shifted": _shifted}
