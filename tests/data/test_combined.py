import pickle
from pathlib import Path

import numpy as np
import pytest

from segtrain.data.combined import binary, concat, readable
from segtrain.data.folder_pairs import folder_pairs
from segtrain.data.labels import IGNORE, LabelSpec
from segtrain.data.scenes import PERSON, POLE, Scenes, scenes
from segtrain.errors import DataError


def test_chosen_classes_become_one_and_all_others_another():
    source = scenes(length=12)
    dataset = binary(of=source, classes=["pole", "person"])
    assert dataset.labels.names == ("other", "pole+person")
    assert len(dataset) == 12
    for index in range(12):
        image, target, name = dataset[index]
        was = source[index]
        assert np.array_equal(image, was.image)
        assert name == dataset.path(index) == was.id
        assert np.array_equal(target == 1, np.isin(was.target, (POLE, PERSON)))
        assert np.array_equal(target == IGNORE, was.target == IGNORE)
        assert set(np.unique(target)) <= {0, 1, IGNORE}
    assert np.array_equal(pickle.loads(pickle.dumps(dataset))[0].target, dataset[0].target)


def test_classes_that_divide_nothing_are_refused():
    source = scenes(length=1)
    with pytest.raises(ValueError, match="did you mean 'pole'"):
        binary(of=source, classes=["poles"])
    for classes in ([], list(source.labels.names)):
        with pytest.raises(ValueError, match="but not all"):
            binary(of=source, classes=classes)


def test_joined_data_sets_keep_their_order():
    parts = [scenes(length=2), scenes(length=1, split="val"), scenes(length=3, split="test")]
    dataset = concat(of=[*parts, parts[0]])
    assert len(dataset) == 8
    expected = [part.path(i) for part in (*parts, parts[0]) for i in range(len(part))]
    assert [dataset.path(i) for i in range(8)] == [dataset[i].id for i in range(8)] == expected
    assert dataset.labels is parts[0].labels
    assert dataset.kind == "segmentation"


def test_only_data_sets_of_the_same_classes_are_joined():
    other = Scenes("train", 1, (16, 16), 0, LabelSpec(("a", "b")))
    with pytest.raises(ValueError, match=r"different classes: ground, .* and a, b"):
        concat(of=[scenes(length=1), other])
    with pytest.raises(ValueError, match="nothing to join"):
        concat(of=[])


@pytest.fixture
def damaged(tmp_path: Path, save) -> Path:
    for index in range(6):
        save(f"images/train/{index}.png", np.zeros((4, 4, 3), np.uint8))
        save(f"masks/train/{index}.png", np.full((4, 4), 9 if index == 4 else 1, np.uint8))
    (tmp_path / "images/train/1.png").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_cannot_be_read_are_left_out_and_listed(damaged: Path, workers: int, caplog):
    source = folder_pairs(root=damaged, names=["a", "b"])
    dataset = readable(of=source, workers=workers)
    told = caplog.text
    assert "2 of 6 samples cannot be used:" in told
    assert "1.png is empty (0 bytes)" in told
    assert "4.png holds 9 (16 pixels)" in told
    assert [dataset.path(i)[-5:] for i in range(len(dataset))] == ["0.png", "2.png", "3.png", "5.png"]
    assert (dataset[3].target == 1).all()
    assert (dataset.labels, dataset.kind) == (source.labels, source.kind)


def test_more_bad_samples_than_allowed_are_an_error(damaged: Path):
    source = folder_pairs(root=damaged, names=["a", "b"])
    with pytest.raises(DataError, match="2 of 6 samples cannot be used") as caught:
        readable(of=source, max_bad=1, workers=0)
    assert caught.value.messages[-1] == "max_bad: 1 allows no more; mend them, or allow 2"


def test_good_data_sets_stay_whole():
    assert len(readable(of=scenes(length=5, size=(16, 16)), workers=0)) == 5
