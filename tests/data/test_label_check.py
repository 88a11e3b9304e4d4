from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from segtrain.data.check import check_labels
from segtrain.data.folder_pairs import folder_pairs
from segtrain.data.labels import from_values
from segtrain.data.scenes import scenes
from segtrain.errors import DataError
from segtrain.task import Sample


@pytest.fixture
def write(tmp_path: Path, save):
    """Writes masks with the given values and returns the root."""

    def masks(*rows: list[int]) -> Path:
        for index, row in enumerate(rows):
            save(f"images/train/{index:04d}.png", np.zeros((1, len(row), 3), np.uint8))
            save(f"masks/train/{index:04d}.png", np.array([row], np.uint8))
        return tmp_path

    return masks


def test_good_labels_are_one_line_that_names_absent_classes(write):
    assert check_labels(scenes(length=40)) == "labels of 40 samples ok"
    root = write([0, 1, 255], [0, 0, 0])
    assert check_labels(folder_pairs(root=root, names=["a", "b"])) == "labels of 2 samples ok"
    summary = check_labels(folder_pairs(root=root, names=["a", "b", "c", "d"]))
    assert summary == "labels of 2 samples ok, without c, d"


def test_bad_masks_are_all_found_and_some_are_listed(write):
    root = write([0, 7, 7], [0, 1, 2], [9, 0, 0], [0, 0, 8])
    with pytest.raises(DataError) as caught:
        check_labels(folder_pairs(root=root, names=["a", "b", "c"]), show=2)
    head, first, second, more = caught.value.messages
    assert head == "label check: 3 of 4 sampled files cannot be used:"
    assert "0000.png holds 7 (2 pixels); known are 0..2, 255. 3 classes are configured." in first
    assert "values: {7: ignore}" in first
    assert "0002.png holds 9 (1 pixels)" in second
    assert more == "… and 1 more"


def test_0_255_masks_that_were_meant_to_be_binary_are_recognised(write):
    root = write([0, 255], [255, 255], [0, 0])
    with pytest.raises(
        DataError, match=r"all 3 sampled masks hold only \{0, 255\}.*set values: \{0: background, 255: thing\}"
    ):
        check_labels(folder_pairs(root=root, names=["background", "thing"]))
    fixed = folder_pairs(root=root, values={0: "background", 255: "thing"})
    assert check_labels(fixed) == "labels of 3 samples ok"


def test_no_more_samples_are_read_than_asked_for_and_they_are_spread(write):
    class Counting:
        source = scenes(length=100, size=(16, 16))
        labels, kind = source.labels, source.kind
        read: ClassVar[list[int]] = []

        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int):
            self.read.append(index)
            return self.source[index]

        def path(self, index: int) -> str:
            return str(index)

    check_labels(Counting(), 5)
    assert Counting.read == [0, 25, 50, 74, 99]


def test_masks_of_nothing_but_ignored_pixels_are_refused(tmp_path):
    for kind, image in (("images", Image.new("RGB", (8, 8))), ("masks", Image.new("L", (8, 8), 255))):
        (tmp_path / kind / "train").mkdir(parents=True)
        image.save(tmp_path / kind / "train" / "a.png")
    dataset = folder_pairs(root=tmp_path, names=["road", "car"])
    with pytest.raises(DataError, match="nothing but ignored pixels"):
        check_labels(dataset)


class Strange:
    """A data set of somebody's own, with a train id that is no class."""

    kind = "segmentation"
    labels = from_values({0: "a", 1: "b"}, {})

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return Sample(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 7, np.uint8), "mine/0")

    def path(self, index):
        return "mine/0"


def test_a_train_id_that_is_no_class_is_found():
    with pytest.raises(DataError, match="mine/0: holds the train ids 7; the 2 classes have"):
        check_labels(Strange())
