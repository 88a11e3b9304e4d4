"""Scenes written in the layout of a known data set are read back by its own reader as what they were."""

from pathlib import Path

import numpy as np
import pytest

from segtrain.build import register_components
from segtrain.cli.data import LAYOUTS as OFFERED
from segtrain.data.labels import IGNORE
from segtrain.data.layouts import LAYOUTS, reading, write_scenes
from segtrain.data.scenes import LABELS, VEHICLE, Scenes
from segtrain.registry import DATASETS

SCENES = {"train": Scenes("train", 5, (32, 40), 0), "val": Scenes("val", 2, (32, 40), 0)}


def read_back(layout: str, folder: Path, split: str):
    register_components()
    keys = reading(layout, str(folder), split)
    factory = DATASETS[keys.pop("name")]
    return factory(**{key: Path(value) if key in ("root", "file", "files") else value for key, value in keys.items()})


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("split", ["train", "val"])
def test_every_layout_is_read_back_as_it_was(layout, split, tmp_path):
    write_scenes(tmp_path, layout, SCENES, iter)
    dataset = read_back(layout, tmp_path, split)
    assert len(dataset) == len(SCENES[split])
    called = np.array(LAYOUTS[layout].classes)
    for i in range(len(dataset)):
        before, after = SCENES[split][i], dataset[i]
        assert np.array_equal(after.target == IGNORE, before.target == IGNORE)
        valid = before.target != IGNORE
        names = np.array(dataset.labels.names)[after.target[valid]]
        assert np.array_equal(names, called[before.target[valid]])
        if LAYOUTS[layout].image.endswith(".png"):
            assert np.array_equal(after.image, before.image)
        else:
            assert np.abs(after.image.astype(int) - before.image).mean() < 8  # a JPEG


def test_images_with_a_class_each(tmp_path):
    write_scenes(tmp_path, "image_folder", SCENES, iter)
    dataset = read_back("image_folder", tmp_path, "train")
    with_vehicle = sum(int((SCENES["train"][i].target == VEHICLE).any()) for i in range(5))
    assert len(dataset) == 5
    assert sum(int(dataset[i].target) == 0 for i in range(5)) == with_vehicle


def test_the_command_offers_what_can_be_written():
    assert set(OFFERED) == {*LAYOUTS, "image_folder", "shards"}


def test_a_layout_names_a_class_for_every_class_of_the_scenes():
    for layout in LAYOUTS.values():
        assert len(layout.classes) == len(layout.raw) == len(LABELS.names)
