from pathlib import Path

import numpy as np
import pytest

from segtrain.data.camvid import LABELS, camvid
from segtrain.data.check import check_labels
from segtrain.errors import DataError

RAW = np.array([[0, 10, 11]], np.uint8)


@pytest.fixture
def root(tmp_path: Path, save) -> Path:
    for split, names in {"train": "abc", "val": "d", "test": "ef"}.items():
        for name in names:
            save(f"CamVid/{split}/{name}.png", np.full((1, 3, 3), ord(name), np.uint8))
            save(f"CamVid/{split}annot/{name}.png", RAW)
    return tmp_path / "CamVid"


def test_the_folders_alone_are_enough_and_void_is_ignored(root: Path):
    for split, count in {"train": 3, "val": 1, "test": 2}.items():
        assert len(camvid(root=root, split=split)) == count
    sample = camvid(root=root, split="train")[1]
    assert sample.id == "train/b.png"
    assert (sample.image == ord("b")).all()
    assert sample.target.tolist() == [[0, 10, 255]]
    assert len(LABELS.names) == 11


@pytest.mark.parametrize(
    "line", ["/SegNet/CamVid/train/{0}.png /SegNet/CamVid/trainannot/{0}.png", "train/{0}.png trainannot/{0}.png"]
)
def test_lists_count_by_file_names_and_in_their_order(root: Path, line: str):
    (root / "train.txt").write_text("\n".join(line.format(name) for name in "ca") + "\n\n")
    dataset = camvid(root=root, split="train")
    assert [dataset.path(i) for i in range(len(dataset))] == ["train/c.png", "train/a.png"]


def test_what_is_wrong_is_said(root: Path):
    (root / "train.txt").write_text("train/a.png trainannot/a.png\ntrain/z.png trainannot/z.png\n")
    with pytest.raises(
        DataError, match=r"1 of 2 samples lacks a file: train/z\.png \(looked for train/z\.png\)\. Set missing: skip"
    ):
        camvid(root=root, split="train")
    assert len(camvid(root=root, split="train", missing="skip")) == 1
    (root / "train.txt").write_text("train/a.png\n")
    with pytest.raises(DataError, match=r"train\.txt has the line 'train/a\.png'; expected are lines of two files"):
        camvid(root=root, split="train")


def test_a_split_without_images_is_an_error(root: Path):
    for file in (root / "val").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"CamVid holds no images of this split\. Found in .*: test/, testannot/"):
        camvid(root=root, split="val")


def test_a_label_beyond_void_is_an_error(root: Path, save):
    save("CamVid/trainannot/b.png", np.array([[0, 12, 255]], np.uint8))
    with pytest.raises(
        DataError, match=r"trainannot/b\.png holds 12 \(1 pixels\), 255 \(1 pixels\); known are 0\.\.11, as"
    ) as caught:
        check_labels(camvid(root=root, split="train"))
    assert "values: {" not in str(caught.value), "camvid has no such key"


def test_a_list_of_nothing_is_said(root: Path):
    (root / "train.txt").write_text("\n")
    with pytest.raises(DataError, match=r"train\.txt lists nothing; without the file all images"):
        camvid(root=root, split="train")


def test_the_real_one(real_data: Path):
    for split, count in {"train": 367, "val": 101}.items():
        dataset = camvid(split=split)
        assert len(dataset) == count
        assert check_labels(dataset, 16).startswith("labels of 16 samples ok")
        assert dataset[0].image.shape == (360, 480, 3)
