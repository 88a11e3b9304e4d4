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

# The classes of the original labels that SegNet put together
PARTS = {
    "sky": {"Sky"},
    "building": {"Archway", "Bridge", "Building", "Tunnel", "Wall"},
    "pole": {"Column_Pole", "TrafficCone"},
    "road": {"LaneMkgsDriv", "LaneMkgsNonDriv", "Road"},
    "pavement": {"ParkingBlock", "RoadShoulder", "Sidewalk"},
    "tree": {"Tree", "VegetationMisc"},
    "sign": {"Misc_Text", "SignSymbol", "TrafficLight"},
    "fence": {"Fence"},
    "car": {"Car", "OtherMoving", "SUVPickupTruck", "Train", "Truck_Bus"},
    "pedestrian": {"Animal", "CartLuggagePram", "Child", "Pedestrian"},
    "bicyclist": {"Bicyclist", "MotorcycleScooter"},
}


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
        if not read_lines(listing):
            raise DataError(f"{listing} lists nothing; without the file all images in {images} are taken")
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


@DATASETS.register("camvid_original")
def camvid_original(
    *,
    root: Path = Path("CamVid"),
    files: Path | None = None,
    classes: Literal[11, 32] = 11,
    missing: Missing = "error",
) -> Pairs:
    """CamVid as its authors published it: 701 stills and RGB labels in 32 colours, without a division into splits.

    `files`: a list of the names to take, one per line, such as 0001TP_006690. `classes`: SegNet's 11, or all 31 that
    are not Void.
    """
    folder = find_root(
        root, "701_StillsRaw_full", "701_StillsRaw_full/*.png, LabeledApproved_full/*_L.png, label_colors.txt"
    )
    colors = _colors(folder / "label_colors.txt")
    parts = PARTS if classes == 11 else {name: {name} for name in colors if name != "Void"}
    ids = {part: i for i, names in enumerate(parts.values()) for part in names}
    palette = tuple(PALETTE.values()) if classes == 11 else tuple(colors[name] for name in parts)
    labels = LabelSpec(tuple(parts), palette, colors={color: ids.get(name, IGNORE) for name, color in colors.items()})
    stills = folder / "701_StillsRaw_full"
    if files:
        names = read_lines(find_root(folder, str(files), str(files)) / files)
    else:
        names = [file.stem for file in image_files(stills)]
    pairs = [Pair(stills / f"{name}.png", folder / "LabeledApproved_full" / f"{name}_L.png") for name in names]
    return existing_pairs(folder, pairs, missing, labels)


def _colors(file: Path) -> dict[str, Color]:
    colors: dict[str, Color] = {}
    for line in read_lines(file):
        *rgb, name = line.split()
        if len(rgb) != 3 or not all(value.isdigit() for value in rgb):
            raise DataError(f"{file} has the line '{line}'; expected are lines of a colour and a name: R G B name")
        colors[name] = (int(rgb[0]), int(rgb[1]), int(rgb[2]))
    strange = {part for parts in PARTS.values() for part in parts} ^ (colors.keys() - {"Void"})
    if strange:
        raise DataError(f"{file} and the classes of CamVid differ in {', '.join(sorted(strange))}")
    return colors
