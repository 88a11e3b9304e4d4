"""Image files with label files of the same size: what most segmentation data sets are, once their files are found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from segtrain.data.images import Window, check_sizes, read_image, read_mask
from segtrain.data.labels import LabelSpec, Target
from segtrain.data.order import Weights, given_weights, sampling_weights
from segtrain.data.paths import Missing, MissingFilesError, found_in, name_in, some
from segtrain.data.windows import opened, undecoded
from segtrain.errors import DataError
from segtrain.task import Kind, Sample

LOG = logging.getLogger(__name__)


class Pair(NamedTuple):
    """The files of one sample, and how often it is drawn; where the optional third is 0, the labels are ignored."""

    image: Path
    mask: Path
    valid: Path | None = None
    weight: float = 1.0

    @property
    def files(self) -> list[Path]:
        return [file for file in self[:3] if file is not None]


@dataclass(frozen=True)
class Pairs:
    """Samples from pairs of files below `root`."""

    root: Path
    pairs: tuple[Pair, ...]
    labels: LabelSpec
    read: Callable[[Path], npt.NDArray[Any]] = read_mask  # raw labels of a mask file
    kind: Kind = "segmentation"

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, mask = read_image(pair.image), self.read(pair.mask)
        check_sizes(image, str(pair.image), mask, str(pair.mask))
        target = self.labels.decode(mask, str(pair.mask))
        if pair.valid is not None:
            valid = read_mask(pair.valid)
            check_sizes(image, str(pair.image), valid, str(pair.valid))
            target[(valid if valid.ndim == 2 else valid.any(axis=2)) == 0] = self.labels.ignore_index
        return Sample(image, target, self.path(index))

    def path(self, index: int) -> str:
        return name_in(self.root, self.pairs[index].image)


@sampling_weights.register
def _(dataset: Pairs) -> Weights | None:
    return given_weights([pair.weight for pair in dataset.pairs])


@opened.register
def _(dataset: Pairs, index: int) -> Sample:
    image_file, mask_file, valid, _ = dataset.pairs[index]
    if valid is not None or dataset.read is not read_mask:
        return dataset[index]
    image = undecoded(image_file, _part_of_image, 3)
    mask = undecoded(mask_file, partial(_part_of_target, dataset.labels)) if image is not None else None
    if image is None or mask is None:
        return dataset[index]
    check_sizes(image, str(image_file), mask, str(mask_file))
    return Sample(cast(Any, image), cast(Any, mask), dataset.path(index))


def _part_of_image(path: Path, content: bytes, window: Window | None) -> npt.NDArray[np.uint8]:
    return read_image(path, content, window=window)


def _part_of_target(labels: LabelSpec, path: Path, content: bytes, window: Window | None) -> Target:
    return labels.decode(read_mask(path, content, window=window), str(path))


def existing_pairs(
    root: Path,
    pairs: Iterable[Pair],
    missing: Missing,
    labels: LabelSpec,
    read: Callable[[Path], npt.NDArray[Any]] = read_mask,
) -> Pairs:
    """The pairs whose files exist. Raises DataError if a file is missing, unless those are to be skipped."""
    every = tuple(pairs)
    if not every:
        raise DataError(f"{root} holds no images of this split. {found_in(root)}")
    gone = {pair: [file for file in pair.files if not file.is_file()] for pair in every}
    lacking = [pair for pair in every if gone[pair]]
    if lacking and missing == "error":
        named = [f"{name_in(root, pair.image)} (looked for {name_in(root, gone[pair][0])})" for pair in lacking]
        raise MissingFilesError(
            f"{root}: {len(lacking)} of {len(every)} samples lack{'s' * (len(lacking) == 1)} a file: {some(named)}. "
            "Set missing: skip to leave them out",
            each=named,
            total=len(every),
        )
    kept = tuple(pair for pair in every if not gone[pair])
    if not kept:
        raise DataError(f"{root}: none of the {len(every)} listed samples has all of its files")
    if lacking:
        names = [name_in(root, pair.image) for pair in lacking]
        LOG.info("%s: %d of %d samples lack a file and are left out: %s", root, len(lacking), len(every), some(names))
    return Pairs(root, kept, labels, read)
