import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from segtrain.data.check import check_labels
from segtrain.data.image_folder import image_folder
from segtrain.data.labels import IGNORED_SAMPLE
from segtrain.data.stanford_cars import stanford_cars
from segtrain.errors import DataError

IMAGE = np.arange(60 * 80 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 80, 3)


@pytest.fixture
def folders(tmp_path: Path, save) -> Path:
    for name in ("train/dog/a.png", "train/dog/more/b.png", "train/cat/c.png", "train/bird/d.png", "val/dog/e.png"):
        save(f"pets/{name}", IMAGE)
    return tmp_path / "pets"


def test_image_folders_are_classes_in_the_order_of_their_names(folders: Path):
    train, val = image_folder(root=folders), image_folder(root=folders, split="val")
    assert train.labels.names == val.labels.names == ("bird", "cat", "dog")
    assert [(train.path(i), int(train[i].target)) for i in range(len(train))] == [
        ("train/bird/d.png", 0),
        ("train/cat/c.png", 1),
        ("train/dog/a.png", 2),
        ("train/dog/more/b.png", 2),
    ]
    image, target, _ = val[0]
    assert np.array_equal(image, IMAGE)
    assert (target.shape, target.dtype, int(target)) == ((), np.int64, 2)
    assert val.labels.task(val.kind).ignore_index == IGNORED_SAMPLE
    assert check_labels(train) == "labels of 4 samples ok"


def test_classes_json_gives_the_classes_and_their_order(folders: Path):
    (folders / "classes.json").write_text(json.dumps(["dog", "cat", "bird", "fish"]))
    dataset = image_folder(root=folders, split="val")
    assert dataset.labels.names == ("dog", "cat", "bird", "fish")
    assert int(dataset[0].target) == 0
    (folders / "classes.json").write_text('{"dog": 0}')
    with pytest.raises(DataError, match=r"classes\.json is not a list of class names"):
        image_folder(root=folders)
    (folders / "classes.json").write_text("dog")
    with pytest.raises(DataError, match=r"classes\.json is not JSON"):
        image_folder(root=folders)


def test_folders_without_images_and_of_no_class_are_errors(folders: Path, save):
    (folders / "train" / "fish").mkdir()
    with pytest.raises(DataError, match="has no image for fish"):
        image_folder(root=folders)
    (folders / "train" / "fish").rmdir()
    save("pets/val/fox/x.png", IMAGE)
    with pytest.raises(DataError, match="has folders of no class: fox; the classes are those of train/"):
        image_folder(root=folders, split="val")
    with pytest.raises(DataError, match=r"test does not exist\. Expected layout: .*Found in .*: train/, val/"):
        image_folder(root=folders, split="test")


def annotations(file: Path, rows: list[tuple[int, int, int, int, int, str]], *, labels: bool = True) -> None:
    """As in the devkit of Stanford Cars; the fields in another order than there, since only names count."""
    kinds = [("fname", object), ("bbox_x1", object), ("bbox_y1", object), ("bbox_x2", object), ("bbox_y2", object)]
    table = np.zeros((1, len(rows)), dtype=kinds + [("class", object)] * labels)
    for i, (left, top, right, bottom, label, name) in enumerate(rows):
        table[0, i] = (name, left, top, right, bottom, *([label] if labels else []))
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"annotations": table})


ROWS = [(11, 6, 50, 25, 1 + i % 3, f"{i:05d}.jpg") for i in range(30)]


@pytest.fixture
def cars(tmp_path: Path, save) -> Path:
    root = tmp_path / "stanford_cars"
    annotations(root / "devkit" / "cars_train_annos.mat", ROWS)
    annotations(root / "devkit" / "cars_test_annos.mat", ROWS[:4], labels=False)
    names = np.empty((1, 3), object)
    names[0, :] = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van 2012", "smart fortwo 2012"]
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    for row in ROWS:
        save(f"stanford_cars/cars_train/{row[-1]}", IMAGE)
    return root


def test_car_classes_count_from_zero_and_have_the_names_of_the_devkit(cars: Path):
    dataset = stanford_cars(root=cars, split="trainval")
    assert len(dataset) == 30
    assert dataset.labels.names[1] == "Ram C/V Cargo Van 2012"
    assert [int(dataset[i].target) for i in range(4)] == [0, 1, 2, 0]
    assert dataset[0].image.shape == IMAGE.shape


def test_train_and_val_divide_the_training_images_by_class_and_by_name_alone(cars: Path):
    parts = {split: stanford_cars(root=cars, split=split) for split in ("train", "val", "trainval")}
    names = {split: {data.path(i) for i in range(len(data))} for split, data in parts.items()}
    assert names["train"] | names["val"] == names["trainval"]
    assert not names["train"] & names["val"]
    assert np.bincount([int(sample.target) for sample in map(parts["val"].__getitem__, range(6))]).tolist() == [2, 2, 2]
    annotations(cars / "devkit" / "cars_train_annos.mat", ROWS[::-1])
    turned = stanford_cars(root=cars, split="val")
    assert {turned.path(i) for i in range(len(turned))} == names["val"]
    for gone in sorted(names["val"])[:2] + sorted(names["train"])[:3]:
        (cars / gone).unlink()
        names["val"].discard(gone)
    fewer = stanford_cars(root=cars, split="val", missing="skip")
    assert {fewer.path(i) for i in range(len(fewer))} == names["val"]
    with pytest.raises(DataError, match=r"2 of 6 images are missing: cars_train/.*missing: skip"):
        stanford_cars(root=cars, split="val")


def test_another_seed_divides_otherwise_and_the_division_is_told(cars: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "segtrain")
    parts = []
    for seed in (0, 1):
        val, train = (stanford_cars(root=cars, split=split, val_seed=seed) for split in ("val", "train"))
        assert (len(val), len(train)) == (6, 24)
        parts.append({val.path(i) for i in range(len(val))})
        assert not parts[-1] & {train.path(i) for i in range(len(train))}
    assert parts[0] != parts[1]
    assert "val is 6 of the 30 training images: val_share 0.2 of each class is val" in caplog.messages[0]
    assert "val_seed 1" in caplog.messages[-1]


def test_left_out_images_are_counted_and_told(cars: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "segtrain")
    (cars / "cars_train" / "00004.jpg").unlink()
    assert len(stanford_cars(root=cars, split="trainval", missing="skip")) == 29
    assert caplog.messages == [f"{cars}: 1 of 30 images are missing and left out: cars_train/00004.jpg"]


def test_classes_without_images_can_be_left_out_and_the_others_keep_their_order(
    cars: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "segtrain")
    for row in ROWS[1::3]:
        (cars / "cars_train" / row[-1]).unlink()
    for split in ("train", "val", "trainval"):
        dataset = stanford_cars(root=cars, split=split, missing="skip", classes="present")
        assert dataset.labels.names == ("AM General Hummer SUV 2000", "smart fortwo 2012")
        assert {item.label for item in dataset.items} == {0, 1}
    assert [int(dataset[i].target) for i in range(4)] == [0, 1, 0, 1]
    assert "2 of 3 classes have images in this folder; the others are left out" in caplog.text
    assert len(stanford_cars(root=cars, missing="skip").labels.names) == 3


def test_the_doubled_folder_of_kaggle_is_found(cars: Path):
    (cars / "cars_train").rename(cars / "inner")
    (cars / "cars_train").mkdir()
    (cars / "inner").rename(cars / "cars_train" / "cars_train")
    assert stanford_cars(root=cars, split="trainval").path(0) == "cars_train/cars_train/00000.jpg"


@pytest.mark.parametrize("folder", [".", "devkit"])
def test_the_test_images_need_the_file_with_labels(cars: Path, folder: str, save):
    with pytest.raises(DataError, match=r"has no cars_test_annos_withlabels\.mat.*split: val"):
        stanford_cars(root=cars, split="test")
    annotations(cars / folder / "cars_test_annos_withlabels.mat", ROWS[:2])
    for row in ROWS[:2]:
        save(f"stanford_cars/cars_test/{row[-1]}", IMAGE)
    assert len(stanford_cars(root=cars, split="test")) == 2
    annotations(cars / folder / "cars_test_annos_withlabels.mat", ROWS[:2], labels=False)
    with pytest.raises(DataError, match="has no field 'class'"):
        stanford_cars(root=cars, split="test")


def test_boxes_count_from_one_and_are_widened_within_the_image(cars: Path, save):
    save("stanford_cars/cars_train/00000.png", IMAGE)
    (cars / "cars_train" / "00000.png").rename(cars / "cars_train" / "00000.jpg")
    exact = stanford_cars(root=cars, split="trainval", crop=0.0)[0].image
    assert np.array_equal(exact, IMAGE[5:25, 10:50])
    wide = stanford_cars(root=cars, split="trainval", crop=0.5)[0].image
    assert np.array_equal(wide, IMAGE[0:35, 0:70])


def test_boxes_beyond_the_image_say_that_it_was_cropped(cars: Path, save):
    save("stanford_cars/cars_train/00001.jpg", IMAGE[:20, :40])
    with pytest.raises(DataError, match=r"00001\.jpg is 40x20, but its box is \(10, 5, 50, 25\) .*crop: null"):
        check_labels(stanford_cars(root=cars, split="trainval", crop=0.1))
    assert check_labels(stanford_cars(root=cars, split="trainval")) == "labels of 30 samples ok"


def test_a_damaged_devkit_is_named(cars: Path):
    (cars / "devkit" / "cars_meta.mat").write_bytes(b"<html>not here any more</html>" * 20)
    with pytest.raises(DataError, match=r"cars_meta\.mat cannot be read as a Matlab file with 'class_names'"):
        stanford_cars(root=cars)


def test_the_real_cars(real_data: Path):
    with pytest.raises(DataError, match=r"images are missing.*missing: skip"):
        stanford_cars(split="trainval")
    train, val = (stanford_cars(split=split, missing="skip") for split in ("train", "val"))
    assert len(train) + len(val) == 947
    assert 0.18 < len(val) / 947 < 0.22
    assert len(train.labels.names) == 196
    assert len({item.label for item in train.items}) == len({item.label for item in val.items}) == 20
    assert check_labels(val, 8).startswith("labels of 8 samples ok")
    with pytest.raises(DataError, match="cropped or resized already"):
        check_labels(stanford_cars(split="train", missing="skip", crop=0.1))
