"""PASCAL VOC 2012: 20 kinds of things and background, with the Semantic Boundaries Dataset as more training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat

from segtrain.data.images import read_mask
from segtrain.data.labels import IGNORE, VOC_BORDER, LabelSpec, made_up_palette
from segtrain.data.pairs import Pair, Pairs, existing_pairs
from segtrain.data.paths import Missing, find_root, read_lines
from segtrain.errors import DataError
from segtrain.registry import DATASETS

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
PALETTE = made_up_palette(len(NAMES))
COLORS = {color: i for i, color in enumerate(PALETTE)} | {VOC_BORDER: IGNORE}
LABELS = LabelSpec(NAMES, PALETTE, colors=COLORS)


@DATASETS.register("voc2012")
def voc2012(
    *,
    root: Path = Path("VOCdevkit/VOC2012"),
    split: Literal["train", "val", "trainval", "trainaug"] = "train",
    sbd: Path = Path("VOCaug/dataset"),
    missing: Missing = "error",
) -> Pairs:
    """PASCAL VOC 2012; the borders of things, 255, are ignored.

    `trainaug` is `train` and the images of the Semantic Boundaries Dataset in `sbd`, without those of `val` (10,582).
    """
    layout = "{JPEGImages/*.jpg, SegmentationClass/*.png, ImageSets/Segmentation/{train,val,trainval}.txt}"
    place = find_root(root, "ImageSets/Segmentation", layout)
    names = _listed(place, "train" if split == "trainaug" else split)
    pairs = [Pair(place / "JPEGImages" / f"{name}.jpg", place / "SegmentationClass" / f"{name}.png") for name in names]
    if split == "trainaug":
        more = find_root(sbd, "cls", "{cls/*.mat, img/*.jpg, train.txt, val.txt}")
        taken = {*names, *_listed(place, "val")}
        others = sorted({*read_lines(more / "train.txt"), *read_lines(more / "val.txt")} - taken)
        pairs += [Pair(more / "img" / f"{name}.jpg", more / "cls" / f"{name}.mat") for name in others]
    return existing_pairs(place, pairs, missing, LABELS, read=_read)


def _listed(place: Path, split: str) -> list[str]:
    return read_lines(place / "ImageSets" / "Segmentation" / f"{split}.txt")


def _read(file: Path) -> npt.NDArray[Any]:
    if file.suffix != ".mat":
        return read_mask(file)
    try:
        return np.asarray(loadmat(file, squeeze_me=True)["GTcls"]["Segmentation"].item(), np.uint8)
    except Exception as error:  # scipy raises anything for files that are none of Matlab's
        raise DataError(f"{file} cannot be read as labels of the Semantic Boundaries Dataset: {error}") from error
