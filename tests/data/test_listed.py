"""Parts of data sets by the names of their samples."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.data.combined import Concatenated
from segtrain.data.image_folder import image_folder
from segtrain.data.listed import listed, sample_names
from segtrain.data.sources import origin
from segtrain.errors import DataError


@pytest.fixture
def images(tmp_path: Path):
    for name in ("cat/a", "cat/b", "dog/a"):
        (tmp_path / "set" / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "set" / "train" / f"{name}.png")
    return image_folder(root=tmp_path / "set")


def test_a_list_says_which_samples_and_in_which_order(images, tmp_path: Path):
    (tmp_path / "names.txt").write_text("dog/a\n\n cat/a \n")
    part = listed(of=images, files=tmp_path / "names.txt")
    assert [int(part[i].target) for i in range(2)] == [1, 0]
    assert origin(part, 0).image == tmp_path / "set" / "train" / "dog" / "a.png"


def test_names_that_are_not_there_are_told_with_some_that_are(images, tmp_path: Path):
    for content, said in {
        "cat/z\ncat/a\n": r"names 1 of 2 samples that are not there: cat/z; the data set has cat/a, cat/b, dog/a",
        "\n": "names.txt is empty",
    }.items():
        (tmp_path / "names.txt").write_text(content)
        with pytest.raises(DataError, match=said):
            listed(of=images, files=tmp_path / "names.txt")
    with pytest.raises(DataError, match=r"no\.txt does not exist|no\.txt.*not exist"):
        listed(of=images, files=tmp_path / "no.txt")


def test_names_that_mean_several_samples_are_refused(images, tmp_path: Path):
    (tmp_path / "names.txt").write_text("cat/a\n")
    both = Concatenated((images, images))
    assert sample_names(both) == sample_names(images) * 2
    with pytest.raises(DataError, match="several samples are called 'cat/a'"):
        listed(of=both, files=tmp_path / "names.txt")
