"""Stanford Cars: 196 makes, models and years of cars."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.io import loadmat

from segtrain.data.labelled import Box, Labelled, LabelledImages, existing_images
from segtrain.data.paths import Missing, find_root, found_in
from segtrain.errors import DataError
from segtrain.registry import DATASETS

LOG = logging.getLogger(__name__)
LAYOUT = "{cars_train/*.jpg, cars_test/*.jpg, devkit/{cars_meta,cars_train_annos}.mat, cars_test_annos_withlabels.mat}"


@DATASETS.register("stanford_cars")
def stanford_cars(
    *,
    root: Path = Path("stanford_cars"),
    split: Literal["train", "val", "trainval", "test"] = "train",
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    val_seed: Annotated[int, Field(ge=0)] = 0,
    crop: Annotated[float, Field(ge=0)] | None = None,
    missing: Missing = "error",
    classes: Literal["all", "present"] = "all",
) -> LabelledImages:
    """Stanford Cars as torchvision lays it out; Kaggle's doubled cars_train/cars_train/ is found as well.

    `trainval` is what the authors call train, 8,144 images. The labels of `test` come in a file of their own that many
    copies lack; for those `train` and `val` divide `trainval`: `val_share` of each class is val, chosen by the file
    names and `val_seed` alone, so a division does not change with the files that happen to be there.
    `missing: skip` leaves out images that are not there; `classes: present` then leaves out the classes that have no
    image in `trainval` and numbers the others anew, in the same order.
    `crop`: cut to the box of the car, widened by this share of its width and height on each side.
    """
    place = find_root(root, "devkit", LAYOUT)
    names = tuple(str(name) for name in np.atleast_1d(_read(place / "devkit" / "cars_meta.mat", "class_names")))
    if split == "test":
        folder, rows = _images(place, "cars_test"), _rows(_test_annotations(place))
    else:
        folder, rows = _images(place, "cars_train"), _rows(place / "devkit" / "cars_train_annos.mat")
        if split != "trainval":
            everything, rows = len(rows), _divided(rows, val_share, val_seed)[split]
            LOG.info(
                "stanford_cars: %s is %d of the %d training images: val_share %g of each class is val, chosen by file "
                "name and val_seed %d",
                *(split, len(rows), everything, val_share, val_seed),
            )
    ids = _present(place) if classes == "present" else list(range(len(names)))
    if classes == "present":
        LOG.info(
            "stanford_cars: %d of %d classes have images in this folder; the others are left out", len(ids), len(names)
        )
    number = {old: new for new, old in enumerate(ids)}
    items = [
        Labelled(folder / row["fname"], number[row["class"] - 1], _box(row))
        for row in rows
        if row["class"] - 1 in number
    ]
    return existing_images(place, items, tuple(names[old] for old in ids), missing, margin=crop)


Row = dict[str, Any]  # bbox_x1, bbox_y1, bbox_x2, bbox_y2, class, fname; pixels and classes count from 1


def _box(row: Row) -> Box | None:
    if "bbox_x1" not in row:
        return None
    return Box(row["bbox_x1"] - 1, row["bbox_y1"] - 1, row["bbox_x2"], row["bbox_y2"])


def _read(file: Path, variable: str) -> npt.NDArray[Any]:
    if not file.is_file():
        raise DataError(f"{file} does not exist; it belongs to the devkit of the data set. {found_in(file.parent)}")
    try:
        return np.asarray(loadmat(file, squeeze_me=True)[variable])
    except Exception as error:  # scipy raises anything for files that are none of Matlab's
        raise DataError(f"{file} cannot be read as a Matlab file with '{variable}': {error}") from error


def _rows(file: Path) -> list[Row]:
    """The annotations by their field names: their order differs between releases."""
    table = np.atleast_1d(_read(file, "annotations"))
    fields = table.dtype.names or ()
    if not {"fname", "class"} <= set(fields):
        raise DataError(
            f"{file} has no field 'class' (it has {', '.join(fields)}): these are annotations without labels"
        )
    return [{name: row[name] if name == "fname" else int(row[name]) for name in fields} for row in table]


def _test_annotations(place: Path) -> Path:
    name = "cars_test_annos_withlabels.mat"
    for file in (place / name, place / "devkit" / name):
        if file.is_file():
            return file
    raise DataError(
        f"{place} has no {name}, the labels of the test images; set split: val for a part of the training images"
    )


def _present(place: Path) -> list[int]:
    """The classes, counted from 0, of the training images that are there."""
    folder = _images(place, "cars_train")
    here = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    rows = _rows(place / "devkit" / "cars_train_annos.mat")
    return sorted({row["class"] - 1 for row in rows if row["fname"] in here})


def _images(place: Path, name: str) -> Path:
    doubled = place / name / name
    return doubled if doubled.is_dir() else place / name


def _divided(rows: list[Row], val_share: float, seed: int) -> dict[str, list[Row]]:
    """Train and val. In each class the files come in the order of their digests, and the first ones are val."""
    by_class: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_class[row["class"]].append(row)
    parts: dict[str, list[Row]] = {"train": [], "val": []}
    for label in sorted(by_class):
        files = sorted(by_class[label], key=lambda row: hashlib.sha256(f"{seed} {row['fname']}".encode()).digest())
        count = round(val_share * len(files))
        parts["val"] += files[:count]
        parts["train"] += files[count:]
    return parts
