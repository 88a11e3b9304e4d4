"""The configurations of known data sets train on files in the exact layout of each, with the quirk of its labels."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.build import register_components
from segtrain.cli.train import main
from segtrain.config import load
from segtrain.data.labels import IGNORE
from segtrain.data.layouts import LAYOUTS, write_scenes
from segtrain.data.scenes import Scenes
from segtrain.data.sources import origin
from segtrain.maker import Maker

CONFIGS = Path(__file__).parents[1] / "configs"
SCENES = {"train": Scenes("train", 4, (64, 80), 2), "val": Scenes("val", 2, (64, 80), 2)}  # one has an ignored frame
SMALL = ["data.batch_size=2", "data.workers=0", "train.steps=2", "train.accumulate=1", "log.every=1", "log.pictures=1"]
# config → a label file, its mode, the values that it may hold, and the names that they have after reading
QUIRKS = {
    "cityscapes": ("gtFine/train/synth/*_gtFine_labelIds.png", "L", {0: None, 7: "road", 23: "sky", 26: "car"}),
    "voc2012": ("SegmentationClass/*.png", "P", {0: "background", 7: "car", 15: "person", 255: None}),
    "ade20k": ("annotations/training/*.png", "L", {0: None, 3: "sky", 7: "road", 21: "car"}),
    "coco_stuff": ("annotations/train2017/*.png", "L", {0: "person", 2: "car", 148: "road", 255: None}),
    "coco_panoptic": ("annotations/panoptic_train2017/*.png", "RGB", {(0, 0, 0): None, (22, 31, 1): "sky"}),
    "oxford_pets": ("annotations/trimaps/*.png", "L", {1: "pet", 2: "background", 3: None}),
    "manifest": ("masks/*.png", "L", {0: "ground", 1: "sky", 3: "road", 255: None}),
    "camvid": ("trainannot/*.png", "L", {0: "sky", 3: "road", 11: None}),
}


def overrides(name: str, folder: Path) -> list[str]:
    """What a user changes to train the configuration on files of his own, small."""
    key = "file" if name == "manifest" else "root"
    place = folder / "samples.csv" if name == "manifest" else folder
    changed = [f"data.{split}.{key}={place}" for split in ("train", "val")]
    if name == "manifest":
        names = "[ground, sky, building, road, vehicle, pole, person]"
        changed += [
            f"data.{split}.{extra}" for split in ("train", "val") for extra in ("values=null", f"names={names}")
        ]
    if name == "oxford_pets_breeds":
        return [*changed, *SMALL, "model.arch=resnet18", "model.weights=null", "data.augment.0.size=[32,32]"]
    return [*changed, *SMALL, "model.encoder=resnet18", "model.encoder_weights=null", "data.augment.0.size=[32,48]"]


@pytest.mark.parametrize("name", [*QUIRKS, "oxford_pets_breeds"])
def test_the_configuration_trains_on_files_as_they_are_published(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "set", name.removesuffix("_breeds"), SCENES, iter)
    arguments = ["--config", str(CONFIGS / f"{name}.yaml"), "--run-dir", "run", *overrides(name, tmp_path / "set")]
    if "epochs" in (CONFIGS / f"{name}.yaml").read_text():
        arguments.append("train.epochs=null")
    code = main(arguments)
    told = capsys.readouterr()
    assert code == 0, told.err
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("name", QUIRKS)
def test_the_values_of_its_label_files_mean_what_they_mean_there(name, tmp_path):
    register_components()
    write_scenes(tmp_path, name, SCENES, iter)
    config, source = load(CONFIGS / f"{name}.yaml", [*overrides(name, tmp_path), "train.epochs=null"])
    dataset = Maker(source).make(config.data.train)
    pattern, mode, meaning = QUIRKS[name]
    seen = set()
    for i in range(len(dataset)):
        file, target = origin(dataset, i).label, dataset[i].target
        assert file is not None
        assert file.relative_to(tmp_path).match(pattern)
        with Image.open(file) as image:
            assert image.mode == mode
            held = np.asarray(image)
        for value, called in meaning.items():
            here = (held == value).all(axis=2) if held.ndim == 3 else held == value
            expected = IGNORE if called is None else dataset.labels.names.index(called)
            assert (target[here] == expected).all()
            seen |= {value} if here.any() else set()
    assert seen == {*meaning}


def test_every_layout_that_is_written_has_a_configuration():
    assert {name for name in LAYOUTS if not (CONFIGS / f"{name}.yaml").exists()} == {"camvid_original"}


def test_breeds_are_named_after_the_files_and_counted_from_one(tmp_path):
    register_components()
    write_scenes(tmp_path, "oxford_pets", SCENES, iter)
    config, source = load(CONFIGS / "oxford_pets_breeds.yaml", overrides("oxford_pets_breeds", tmp_path))
    dataset = Maker(source).make(config.data.train)
    assert dataset.labels.names == ("Abyssinian", "american_bulldog")
    assert [int(dataset[i].target) for i in range(4)] == [0, 1, 0, 1]
