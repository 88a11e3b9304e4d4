from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segtrain.data.check import check_labels
from segtrain.data.folder_pairs import folder_pairs
from segtrain.errors import DataError
from segtrain.registry import DATASETS, parameters

NAMES = ["ground", "sky", "building", "road", "vehicle", "pole", "person"]


@pytest.fixture
def root(tmp_path: Path, save, street) -> Path:
    for index, (image, target) in enumerate(street):
        split = "train" if index < 4 else "val"
        save(f"data/images/{split}/city/{index:03d}.png", image)
        save(f"data/masks/{split}/city/{index:03d}.png", target, palette=index % 2 == 0)
    return tmp_path / "data"


def test_images_and_masks_are_paired_by_path_and_read_as_they_were_written(root: Path, street):
    for split, offset, count in (("train", 0, 4), ("val", 4, 2)):
        dataset = folder_pairs(root=root, split=split, names=NAMES)
        assert len(dataset) == count
        for index in range(count):
            image, target, name = dataset[index]
            assert name == f"images/{split}/city/{offset + index:03d}.png"
            assert np.array_equal(image, street[offset + index][0])
            assert np.array_equal(target, street[offset + index][1])


def test_suffixes_extensions_and_a_field_of_view_as_in_drive(tmp_path: Path, save):
    for stem in ("21", "22", "23"):
        save(f"drive/images/{stem}_training.tif", np.full((2, 2, 3), int(stem), np.uint8))
        save(f"drive/1st_manual/{stem}_manual1.gif", np.array([[0, 255], [0, 255]], np.uint8))
        save(f"drive/mask/{stem}_training_mask.gif", np.array([[255, 255], [0, 0]], np.uint8))
    layout: dict[str, Any] = {"images": "images", "masks": "1st_manual", "ignore": "mask"}
    layout |= {"image_suffix": "_training", "mask_suffix": "_manual1", "ignore_suffix": "_training_mask"}
    layout |= {"root": tmp_path / "drive", "values": {0: "background", 255: "vessel"}}
    dataset = folder_pairs(**layout)
    assert len(dataset) == 3
    assert dataset[0].target.tolist() == [[0, 1], [255, 255]]
    assert dataset.labels.names == ("background", "vessel")
    assert [s.id for s in map(folder_pairs(**layout, files=["23", "21"]).__getitem__, (0, 1))] == [
        "images/23_training.tif",
        "images/21_training.tif",
    ]
    (tmp_path / "drive" / "val.txt").write_text("22\n")
    assert folder_pairs(**layout, files=Path("val.txt")).path(0) == "images/22_training.tif"
    with pytest.raises(DataError, match=r"1 of the 2 names in files have no image: 99"):
        folder_pairs(**layout, files=["21", "99"])


def test_glob_patterns_pair_by_name(root: Path):
    dataset = folder_pairs(root=root, images="images/*/city/*.png", masks="masks/**/*.png", names=NAMES)
    assert len(dataset) == 6
    (root / "images" / "val" / "city" / "000.png").write_bytes(b"")
    with pytest.raises(DataError, match="have one name, so nobody can say which is meant"):
        folder_pairs(root=root, images="images/*/city/*.png", masks="masks/**/*.png", names=NAMES)


def test_rgb_masks_are_read_by_their_palette(tmp_path: Path, save):
    colors = {"road": (128, 64, 128), "sky": (70, 130, 180), "ignore": (0, 0, 0)}
    save("data/images/train/a.png", np.zeros((1, 3, 3), np.uint8))
    save("data/masks/train/a.png", np.array([list(colors.values())], np.uint8))
    dataset = folder_pairs(root=tmp_path / "data", palette=colors)
    assert dataset.labels.names == ("road", "sky")
    assert dataset[0].target.tolist() == [[0, 1, 255]]


def test_the_voc_palette_is_known(tmp_path: Path, save):
    save("data/images/train/a.png", np.zeros((1, 3, 3), np.uint8))
    save("data/masks/train/a.png", np.array([[[0, 0, 0], [128, 0, 0], [224, 224, 192]]], np.uint8))
    root = tmp_path / "data"
    assert folder_pairs(root=root, palette="voc", names=["a", "b"])[0].target.tolist() == [[0, 1, 255]]
    with pytest.raises(DataError, match=r"is RGB \(3x1x3\), a class-index image is needed\. .* set palette: voc"):
        check_labels(folder_pairs(root=root, names=["a", "b"]))


def test_masks_that_are_missing_are_counted_and_named(root: Path):
    (root / "masks" / "val" / "city" / "004.png").unlink()
    (root / "images" / "val" / "city" / "005.png").rename(root / "images" / "val" / "city" / "006.png")
    with pytest.raises(
        DataError, match=r"2 of 2 images have no mask: 004\.png \(looked for masks/val/city/004\.\*\)"
    ) as caught:
        folder_pairs(root=root, split="val", names=NAMES)
    assert "1 masks have no image. Set missing: skip to leave them out" in str(caught.value)
    with pytest.raises(DataError, match="none of the 2 images in images/val has a mask in masks/val"):
        folder_pairs(root=root, split="val", names=NAMES, missing="skip")
    (root / "masks" / "train" / "city" / "001.png").unlink()
    assert len(folder_pairs(root=root, names=NAMES, missing="skip")) == 3


def test_what_is_missing_is_named_by_its_kind(root: Path):
    (root / "valid" / "train" / "city").mkdir(parents=True)
    for file in (root / "masks" / "train").rglob("*.png"):
        Image.new("L", (2, 2), 255).save(root / "valid" / "train" / "city" / f"{file.stem}_v.png")
    keys = {"root": root, "names": NAMES, "ignore": "valid/{split}", "ignore_suffix": "_v"}
    assert len(folder_pairs(**keys)) == 4
    (root / "valid" / "train" / "city" / "001_v.png").unlink()
    said = r"1 of 4 images have no image of what to ignore: 001\.png \(looked for valid/train/city/001_v\.\*\)"
    with pytest.raises(DataError, match=said):
        folder_pairs(**keys)


def test_folders_that_are_missing_or_empty_are_said_with_what_is_there(root: Path):
    with pytest.raises(
        DataError, match=r"images/test does not exist\. Expected layout: .*Found in .*data: images/, masks/"
    ):
        folder_pairs(root=root, split="test", names=NAMES)
    with pytest.raises(DataError, match=r"labels/train does not exist"):
        folder_pairs(root=root, masks="labels/{split}", names=NAMES)
    (root / "images" / "empty").mkdir()
    (root / "masks" / "empty").mkdir()
    with pytest.raises(DataError, match="images/empty holds no images"):
        folder_pairs(root=root, split="empty", names=NAMES)


def test_images_and_masks_of_different_size_are_an_error(root: Path, save):
    save("data/masks/train/city/000.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(DataError, match=r"000\.png is 32x24, but .*000\.png is 3x3"):
        folder_pairs(root=root, names=NAMES)[0]


def test_the_classes_are_given_once():
    with pytest.raises(ValueError, match="the classes are not given"):
        folder_pairs(root=Path("x"))
    with pytest.raises(ValueError, match="both give the classes"):
        folder_pairs(root=Path("x"), names=["a"], values={0: "a"})


def test_all_its_parameters_are_keys_of_a_config():
    assert DATASETS["folder_pairs"] is folder_pairs
    assert {"root", "split", "values", "missing"} <= set(parameters(folder_pairs))


def test_the_real_drive(real_data: Path):
    dataset = folder_pairs(
        root=Path("drive/training"),
        images="images",
        masks="1st_manual",
        ignore="mask",
        image_suffix="_training",
        mask_suffix="_manual1",
        ignore_suffix="_training_mask",
        values={0: "background", 255: "vessel"},
    )
    assert len(dataset) == 20
    assert check_labels(dataset) == "labels of 20 samples ok"
    target = dataset[0].target
    assert 0.08 < (target == 1).sum() / (target != 255).sum() < 0.2


def test_two_images_of_one_name_are_refused(tmp_path):
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / kind / "train").mkdir(parents=True)
        Image.new(mode, (8, 8)).save(tmp_path / kind / "train" / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "train" / "a.jpg")
    with pytest.raises(DataError, match="have one name, so nobody can say which is meant"):
        folder_pairs(root=tmp_path, names=["road", "car"])


def test_two_classes_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="names has 'road' more than once"):
        folder_pairs(root=tmp_path, names=["road", "road"])


def test_names_are_read_from_a_file_as_editors_save_it(root: Path):
    (root / "labels.txt").write_bytes("\r\n".join(["\ufeffStraße", *NAMES[1:], "", ""]).encode())
    assert folder_pairs(root=root, names=Path("labels.txt")).labels.names == ("Straße", *NAMES[1:])
    with pytest.raises(DataError, match=r"a single name stands in brackets: \[road\]"):
        folder_pairs(root=root, names=Path("road"))


@pytest.mark.parametrize(("of", "suffix"), [("masks", "_mask"), ("images", "_rgb")])
def test_a_suffix_that_was_forgotten_is_named(root: Path, of: str, suffix: str):
    for file in (root / of / "train").rglob("*.png"):
        file.rename(file.with_stem(file.stem + suffix))
    with pytest.raises(DataError, match=rf"no part of the names, set {of[:-1]}_suffix: {suffix}$"):
        folder_pairs(root=root, names=NAMES)
    assert len(folder_pairs(root=root, names=NAMES, **{f"{of[:-1]}_suffix": suffix})) == 4


def test_names_and_lists_may_be_files_beside_the_images_or_in_the_current_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    (root / "labels.txt").write_text("\n".join(NAMES) + "\n")
    assert folder_pairs(root=root, names=Path("labels.txt")).labels.names == tuple(NAMES)
    monkeypatch.chdir(root.parent)
    Path("lists").mkdir()
    Path("lists/train.txt").write_text("city/001\ncity/003\n")
    assert len(folder_pairs(root=root, names=NAMES, files=Path("lists/train.txt"))) == 2
    with pytest.raises(DataError, match=r"none\.txt does not exist\. Expected layout: .*none\.txt, a list"):
        folder_pairs(root=root, names=NAMES, files=Path("none.txt"))
