"""Generated scenes written in the layouts of known data sets, with their quirks: fixtures for trying every reader."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segtrain.data import camvid, cityscapes, coco_stuff, voc2012
from segtrain.data.encode import index_png, png
from segtrain.data.labels import IGNORE
from segtrain.data.scenes import LABELS, PERSON, VEHICLE, Scenes
from segtrain.task import Color, Sample

Raw = int | Color
Names = Mapping[str, Sequence[str]]  # of the files of each split

CAMVID_COLORS: dict[str, Color] = {  # as its authors give them in label_colors.txt
    "Animal": (64, 128, 64),
    "Archway": (192, 0, 128),
    "Bicyclist": (0, 128, 192),
    "Bridge": (0, 128, 64),
    "Building": (128, 0, 0),
    "Car": (64, 0, 128),
    "CartLuggagePram": (64, 0, 192),
    "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128),
    "Fence": (64, 64, 128),
    "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64),
    "Misc_Text": (128, 128, 64),
    "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64),
    "ParkingBlock": (64, 192, 128),
    "Pedestrian": (64, 64, 0),
    "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192),
    "Sidewalk": (0, 0, 192),
    "SignSymbol": (192, 128, 128),
    "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192),
    "TrafficCone": (0, 0, 64),
    "TrafficLight": (0, 64, 64),
    "Train": (192, 64, 128),
    "Tree": (128, 128, 0),
    "Truck_Bus": (192, 128, 192),
    "Tunnel": (64, 0, 64),
    "VegetationMisc": (192, 192, 0),
    "Void": (0, 0, 0),
    "Wall": (64, 192, 0),
}
ADE_VALUES = {"grass": 10, "sky": 3, "building": 2, "road": 7, "car": 21, "pole": 94, "person": 13}
BREEDS = ("Abyssinian", "american_bulldog")  # in turn; in Oxford's lists cats are written with a capital letter
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Layout:
    """Where the files go, what the labels hold, what else belongs there, and how it is read."""

    image: str  # paths, with {split} and {name}
    label: str
    classes: tuple[str, ...]  # what each class of the scenes is called there
    raw: tuple[Raw, ...]  # what the label files hold for each class of the scenes
    void: Raw
    read: Mapping[str, Any]  # the keys of the component that reads it; {split} stands for the split
    name: str = "{i:06d}"
    splits: tuple[str, str] = SPLITS  # what the splits are called
    key: tuple[str, str] = SPLITS  # what the component calls the splits
    finish: Callable[[Path, Names], None] = field(default=lambda folder, names: None)

    def known_as(self, split: str) -> str:
        """What the component calls train or val."""
        return self.key[SPLITS.index(split)]


Watch = Callable[[Iterable[Any]], Any]


def write_scenes(folder: Path, layout: str, scenes: Mapping[str, Scenes], watch: Watch) -> None:
    """Write the scenes of train and val into `folder`; `watch` goes around the samples to show progress."""
    if layout == "image_folder":
        return _image_folder(folder, scenes, watch)
    chosen, names, start = LAYOUTS[layout], dict[str, list[str]](), 0
    for split, called in zip(SPLITS, chosen.splits, strict=True):
        source = scenes[split]
        names[called] = [
            chosen.name.format(i=i, split=called, breed=BREEDS[i % 2]) for i in range(start, start + len(source))
        ]
        start += len(source)  # names of layouts without folders for the splits have to differ
        for i, name in enumerate(watch(names[called])):
            sample = source[i]
            _write(folder / chosen.image.format(split=called, name=name), _image(chosen.image, sample))
            _write(folder / chosen.label.format(split=called, name=name), _label(chosen, sample))
    chosen.finish(folder, names)
    return None


def reading(layout: str, root: str, split: str) -> dict[str, Any]:
    """The component for data.train or data.val that reads what was written into `root`."""
    if layout == "image_folder":
        return {"name": "image_folder", "root": root, "split": split}
    chosen = LAYOUTS[layout]
    called = chosen.known_as(split)
    keys = {"name": layout, "root": root}
    for key, value in chosen.read.items():
        keys[key] = value.format(split=called) if isinstance(value, str) else value
    if "file" in keys:
        keys["file"] = f"{keys.pop('root')}/{keys['file']}"
    return keys


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def _image(path: str, sample: Sample) -> bytes:
    if path.endswith(".png"):
        return png(sample.image)
    buffer = io.BytesIO()
    Image.fromarray(sample.image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _label(layout: Layout, sample: Sample) -> bytes:
    colored = isinstance(layout.void, tuple)
    table = np.zeros((256, 3) if colored else 256, np.uint8)
    table[: len(layout.raw)] = layout.raw
    table[IGNORE] = layout.void
    raw: npt.NDArray[np.uint8] = table[sample.target]
    return index_png(raw, voc2012.PALETTE) if layout is LAYOUTS["voc2012"] else png(raw)


def _camvid_lists(folder: Path, names: Names) -> None:
    """The lists as published hold absolute paths of another machine."""
    for split, listed in names.items():
        lines = [f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png" for name in listed]
        _write(folder / f"{split}.txt", "\n".join([*lines, ""]).encode())


def _camvid_colors(folder: Path, names: Names) -> None:
    rows = [f"{red} {green} {blue}\t{name}" for name, (red, green, blue) in CAMVID_COLORS.items()]
    _write(folder / "label_colors.txt", "\n".join([*rows, ""]).encode())
    for split, listed in names.items():
        _write(folder / f"{split}.txt", "\n".join([*listed, ""]).encode())


def _voc_lists(folder: Path, names: Names) -> None:
    for split, listed in {**names, "trainval": [name for part in names.values() for name in part]}.items():
        _write(folder / "ImageSets" / "Segmentation" / f"{split}.txt", "\n".join([*listed, ""]).encode())


def _ade_names(folder: Path, names: Names) -> None:
    used = {value: name for name, value in ADE_VALUES.items()}
    rows = [f"{i}\t0.0\t0\t0\t{used.get(i, f'not drawn {i}')}, and more names" for i in range(1, 151)]
    _write(folder / "objectInfo150.txt", "\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows, ""]).encode())


def _pets_lists(folder: Path, names: Names) -> None:
    """Lines of Id CLASS SPECIES BREED: classes count from 1 over all, breeds within cats (1) and dogs (2)."""
    for split, listed in names.items():
        numbers = [BREEDS.index(name.rpartition("_")[0]) + 1 for name in listed]
        rows = [f"{name} {number} {number} 1" for name, number in zip(listed, numbers, strict=True)]
        _write(folder / "annotations" / f"{split}.txt", "\n".join([*rows, ""]).encode())


def _manifest(folder: Path, names: Names) -> None:
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(["image", "mask", "split"])
    for split, listed in names.items():
        rows.writerows([f"images/{name}.png", f"masks/{name}.png", split] for name in listed)
    _write(folder / "samples.csv", buffer.getvalue().encode())


def _panoptic(folder: Path, names: Names) -> None:
    """The JSON files; every class of an image is one segment, whose id is what its label file holds as a colour."""
    categories = [
        {"id": 10 * (i + 1), "name": name, "isthing": int(i in (VEHICLE, PERSON)), "color": list(LABELS.palette[i])}
        for i, name in enumerate(LABELS.names)
    ]
    ids = {_segment(color): category["id"] for color, category in zip(_PANOPTIC_COLORS, categories, strict=True)}
    for split, listed in names.items():
        annotations = []
        for number, name in enumerate(listed):
            file = folder / f"annotations/panoptic_{split}/{name}.png"
            with Image.open(file) as image:
                held = {_segment(color) for _, color in image.getcolors(maxcolors=256) or []} - {0}
            segments = [{"id": segment, "category_id": ids[segment], "iscrowd": 0} for segment in sorted(held)]
            annotations.append({"image_id": number, "file_name": file.name, "segments_info": segments})
        images = [{"id": number, "file_name": f"{name}.jpg"} for number, name in enumerate(listed)]
        content = {"categories": categories, "images": images, "annotations": annotations}
        _write(folder / f"annotations/panoptic_{split}.json", json.dumps(content).encode())


def _segment(color: Any) -> int:
    red, green, blue = color
    return int(red + 256 * green + 65536 * blue)


def _image_folder(folder: Path, scenes: Mapping[str, Scenes], watch: Watch) -> None:
    """Scenes with and without a vehicle, as two classes of images."""
    for split, source in scenes.items():
        for i in watch(range(len(source))):
            sample = source[i]
            name = "with_vehicle" if (sample.target == VEHICLE).any() else "without_vehicle"
            _write(folder / split / name / f"{i:06d}.png", png(sample.image))
    _write(folder / "classes.json", b'["with_vehicle", "without_vehicle"]\n')


_PANOPTIC_COLORS = tuple((17 * i + 5, 31 * i, i) for i in range(len(LABELS.names)))
_OURS = LABELS.names
_CITY = ("terrain", "sky", "building", "road", "car", "pole", "person")
_CAMVID = ("pavement", "sky", "building", "road", "car", "pole", "pedestrian")
_CAMVID_PARTS = ("Sidewalk", "Sky", "Building", "Road", "Car", "Column_Pole", "Pedestrian")
_VOC = (*("background",) * 4, "car", "background", "person")
_STUFF = ("grass", "sky-other", "building-other", "road", "car", "structural-other", "person")
_PETS = (*("background",) * 4, "pet", "background", "pet")

LAYOUTS = {
    "folder_pairs": Layout(
        image="images/{split}/{name}.png",
        label="masks/{split}/{name}.png",
        classes=_OURS,
        raw=tuple(range(len(_OURS))),
        void=IGNORE,
        read={"split": "{split}", "names": list(_OURS)},
    ),
    "manifest": Layout(
        image="images/{name}.png",
        label="masks/{name}.png",
        classes=_OURS,
        raw=tuple(range(len(_OURS))),
        void=IGNORE,
        read={"file": "samples.csv", "split": "{split}", "names": list(_OURS)},
        finish=_manifest,
    ),
    "cityscapes": Layout(
        image="leftImg8bit/{split}/synth/{name}_leftImg8bit.png",
        label="gtFine/{split}/synth/{name}_gtFine_labelIds.png",
        name="synth_{i:06d}_000019",
        classes=_CITY,
        raw=tuple(cityscapes.CLASSES[name][0] for name in _CITY),
        void=0,
        read={"split": "{split}"},
    ),
    "camvid": Layout(
        image="{split}/{name}.png",
        label="{split}annot/{name}.png",
        name="0001TP_{i:06d}",
        classes=_CAMVID,
        raw=tuple(camvid.LABELS.names.index(name) for name in _CAMVID),
        void=camvid.VOID,
        read={"split": "{split}"},
        finish=_camvid_lists,
    ),
    "camvid_original": Layout(
        image="701_StillsRaw_full/{name}.png",
        label="LabeledApproved_full/{name}_L.png",
        name="0001TP_{i:06d}",
        classes=_CAMVID,
        raw=tuple(CAMVID_COLORS[name] for name in _CAMVID_PARTS),
        void=CAMVID_COLORS["Void"],
        read={"files": "{split}.txt"},
        finish=_camvid_colors,
    ),
    "voc2012": Layout(
        image="JPEGImages/{name}.jpg",
        label="SegmentationClass/{name}.png",
        name="2007_{i:06d}",
        classes=_VOC,
        raw=tuple(voc2012.NAMES.index(name) for name in _VOC),
        void=IGNORE,
        read={"split": "{split}"},
        finish=_voc_lists,
    ),
    "ade20k": Layout(
        image="images/{split}/{name}.jpg",
        label="annotations/{split}/{name}.png",
        name="ADE_{split}_{i:08d}",
        splits=("training", "validation"),
        classes=tuple(ADE_VALUES),
        raw=tuple(ADE_VALUES.values()),
        void=0,
        read={"split": "{split}"},
        finish=_ade_names,
    ),
    "coco_stuff": Layout(
        image="images/{split}2017/{name}.jpg",
        label="annotations/{split}2017/{name}.png",
        name="{i:012d}",
        classes=_STUFF,
        raw=tuple(coco_stuff.VALUES[coco_stuff.NAMES.index(name)] for name in _STUFF),
        void=IGNORE,
        read={"split": "{split}"},
    ),
    "coco_panoptic": Layout(
        image="{split}/{name}.jpg",
        label="annotations/panoptic_{split}/{name}.png",
        name="{i:012d}",
        splits=("train2017", "val2017"),
        classes=_OURS,
        raw=_PANOPTIC_COLORS,
        void=(0, 0, 0),
        read={"split": "{split}"},
        finish=_panoptic,
    ),
    "oxford_pets": Layout(
        image="images/{name}.jpg",
        label="annotations/trimaps/{name}.png",
        name="{breed}_{i}",
        splits=("trainval", "test"),
        key=("trainval", "test"),
        classes=_PETS,
        raw=(2, 2, 2, 2, 1, 2, 1),
        void=3,
        read={"split": "{split}"},
        finish=_pets_lists,
    ),
}
