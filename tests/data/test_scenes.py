import numpy as np
import pytest

from segtrain.data.labels import IGNORE
from segtrain.data.scenes import LABELS, POLE, scenes


def test_a_scene_is_a_function_of_seed_split_and_index():
    first, again = scenes(length=4), scenes(length=9)
    for index in range(4):
        assert np.array_equal(first[index].image, again[index].image)
        assert np.array_equal(first[index].target, again[index].target)
    others = (scenes(length=4, seed=1)[3], scenes(length=4, split="val")[3], first[2])
    assert not any(np.array_equal(first[3].image, other.image) for other in others)


@pytest.mark.parametrize("size", [(96, 128), (16, 16), (37, 91), (256, 64)])
def test_scenes_have_the_size_asked_for_and_no_label_outside_the_classes(size: tuple[int, int]):
    source = scenes(length=20, size=size)
    assert len(source) == 20
    for index in range(len(source)):
        image, target, _ = source[index]
        assert (image.shape, image.dtype) == ((*size, 3), np.uint8)
        assert (target.shape, target.dtype) == (size, np.uint8)
        assert set(np.unique(target).tolist()) <= {*range(7), IGNORE}


def test_every_class_occurs_and_thin_things_are_rare():
    source = scenes(length=60)
    counts = sum(np.bincount(source[i].target.ravel(), minlength=256) for i in range(60))
    shares = counts[: len(LABELS.names)] / counts.sum()
    assert (shares > 0.002).all()
    assert (shares[POLE:] < 0.03).all()
    assert (shares[:4] > 0.1).all()
    assert counts[IGNORE] > 0
    assert counts[7:IGNORE].sum() == 0
