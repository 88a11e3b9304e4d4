"""Your own data for classification: one folder of images per class."""

from __future__ import annotations

import json
from pathlib import Path

from segtrain.data.labelled import Labelled, LabelledImages, class_labels
from segtrain.data.paths import find_root, found_in, image_files, some
from segtrain.errors import DataError
from segtrain.registry import DATASETS

LAYOUT = "{train,val}/<class>/*.{jpg,png,…}"
CLASSES = "classes.json"


@DATASETS.register("image_folder")
def image_folder(*, root: Path, split: str = "train", classes_from: str = "train") -> LabelledImages:
    """Images in {split}/<class>/, with all their subfolders.

    The classes are those that `classes_from` has folders for, sorted by name, or the list in classes.json beside the
    splits; every split has these, in this order, so the class ids of all splits agree. A split may lack classes, but a
    class without any image in its folder, or a folder of no class, is an error.
    """
    place = find_root(root, split, LAYOUT)
    names = _classes(place, classes_from)
    folders = _folders(place / split)
    strangers = [folder.name for folder in folders if folder.name not in names]
    if strangers:
        source = CLASSES if (place / CLASSES).is_file() else f"{classes_from}/"
        raise DataError(
            f"{place / split} has folders of no class: {some(strangers)}; the classes are those of {source}"
        )
    found = {folder: image_files(folder) for folder in folders}
    empty = [folder.name for folder, files in found.items() if not files]
    if empty or not found:
        raise DataError(f"{place / split} has no image for {some(empty) or 'any class'}. {found_in(place / split)}")
    items = [Labelled(file, names.index(folder.name)) for folder, files in found.items() for file in files]
    return LabelledImages(place, tuple(items), class_labels(names))


def _classes(place: Path, classes_from: str) -> tuple[str, ...]:
    listed = place / CLASSES
    if not listed.is_file():
        return tuple(folder.name for folder in _folders(find_root(place, classes_from, LAYOUT) / classes_from))
    try:
        names = json.loads(listed.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{listed} is not JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f'{listed} is not a list of class names; it should read ["first", "second", …]')
    return tuple(names)


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
