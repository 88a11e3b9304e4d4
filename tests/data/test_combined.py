import pickle

import numpy as np
import pytest

from segtrain.data.combined import binary, concat
from segtrain.data.labels import IGNORE, LabelSpec
from segtrain.data.scenes import PERSON, POLE, Scenes, scenes


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
