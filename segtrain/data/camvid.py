"""CamVid: 11 classes of street scenes, in the form that SegNet gave it and in its original one."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from segtrain.data.labels import IGNORE, LabelSpec
from segtrain.data.pairs import Pair, Pairs, existing_pairs
from segtrain.data.paths import Missing, find_root, image_files, read_lines
from segtrain.errors import DataError
from segtrain.registry import DATASETS
from segtrain.task import Color

PALETTE: dict[str, Color] = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
VOID = 11
LABELS = LabelSpec(tuple(PALETTE), tuple(PALETTE.values()), {**{i: i for i in range(VOID)}, VOID: IGNORE})


@DATASETS.register("camvid")
def camvid(
    *,
    root: Path = Path("camvid"),
    split: Literal["train", "val", "test"] = "train",
    missing: Missing = "error",
) -> Pairs:
    """CamVid as SegNet packs it: {train,val,test}/ with images, {train,val,test}annot/ with labels 0 to 10, 11 is void.

    {split}.txt lists "image label" lines, of which only the file names count (the published lists hold absolute paths
    of another machine); without it all images of the split's folder are taken.
    """
    folder = find_root(root, split, "{train,val,test}/*.png, {train,val,test}annot/*.png, {train,val,test}.txt")
    images, masks, listing = folder / split, folder / f"{split}annot", folder / f"{split}.txt"
    if listing.is_file():
        pairs = [
            Pair(images / image, masks / mask)
            for image, mask in (_names(line, listing) for line in read_lines(listing))
        ]
    else:
        pairs = [Pair(image, masks / f"{image.stem}.png") for image in image_files(images)]
    return existing_pairs(folder, pairs, missing, LABELS)


def _names(line: str, listing: Path) -> tuple[str, str]:
    parts = [PurePosixPath(part).name for part in line.split()]
    if len(parts) != 2:
        raise DataError(f"{listing} has the line '{line}'; expected are lines of two files: image label")
    return parts[0], parts[1]
