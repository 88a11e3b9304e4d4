"""ADE20K as in its scene parsing challenge: 150 classes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from segtrain.data.labels import IGNORE, LabelSpec
from segtrain.data.pairs import Pair, Pairs, existing_pairs
from segtrain.data.paths import Missing, find_root, image_files, read_lines
from segtrain.errors import DataError
from segtrain.registry import DATASETS

LAYOUT = "{images,annotations}/{training,validation}/ADE_*.{jpg,png}, objectInfo150.txt"
FOLDERS = {"train": "training", "val": "validation"}


@DATASETS.register("ade20k")
def ade20k(
    *,
    root: Path = Path("ADEChallengeData2016"),
    split: Literal["train", "val"] = "train",
    missing: Missing = "error",
) -> Pairs:
    """The challenge's form of ADE20K: values 1 to 150 are the classes of objectInfo150.txt, 0 is other and ignored."""
    place = find_root(root, "images", LAYOUT)
    if any((place / "images").glob("ADE")) or any(place.glob("index_ade20k.*")):
        raise DataError(
            f"{place} is the full ADE20K, whose *_seg.png code thousands of classes in colours; needed is "
            f"ADEChallengeData2016 with {LAYOUT}"
        )
    folder = find_root(place, f"images/{FOLDERS[split]}", LAYOUT) / "images" / FOLDERS[split]
    masks = place / "annotations" / FOLDERS[split]
    pairs = [Pair(image, masks / f"{image.stem}.png") for image in image_files(folder)]
    names = _names(place / "objectInfo150.txt")
    table = {0: IGNORE, **{i + 1: i for i in range(len(names))}}
    return existing_pairs(place, pairs, missing, LabelSpec(names, table=table))


def _names(file: Path) -> tuple[str, ...]:
    """The first of the names in the last column of each row: idx, ratio, train, val, names, separated by tabs."""
    rows = [line.split("\t") for line in read_lines(file)[1:]]
    names = tuple(row[-1].split(",")[0].strip() for row in rows)
    if [row[0].strip() for row in rows] != [str(i + 1) for i in range(len(rows))]:
        raise DataError(f"{file} does not count its classes 1, 2, 3, … in its first column")
    # two classes of ADE20K share their first name
    return tuple(f"{name} {i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names))
