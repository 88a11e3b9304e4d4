import numpy as np
import pytest

from segtrain.data.crop import RandomScaleCrop
from segtrain.task import Sample

IGNORE = 255


def scene(target: np.ndarray) -> Sample:
    return Sample(np.zeros((*target.shape, 3), np.uint8), target, "x")


def test_random_scale_crop_without_scaling_is_a_plain_crop():
    crop = RandomScaleCrop(IGNORE, size=(16, 24), scale=(1.0, 1.0))
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    given = Sample(noise, noise[..., 0], "x")
    cut = crop(given, np.random.default_rng(0))
    windows = np.lib.stride_tricks.sliding_window_view(given.image, (16, 24, 3)).reshape(-1, 16, 24, 3)
    assert (windows == cut.image).all(axis=(1, 2, 3)).any()
    assert np.array_equal(cut.target, cut.image[..., 0])


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.8, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("size", [(1, 1), (17, 31), (48, 64), (100, 90)])
def test_random_scale_crop_shows_image_and_labels_from_one_place(size: tuple[int, int], scale: float):
    rows, columns = np.mgrid[0:48, 0:64].astype(np.uint8)
    given = Sample(np.stack([rows, columns, rows], axis=2), (rows // 8 * 8 + columns // 8 + 1).astype(np.uint8), "x")
    for seed in range(8):
        image, target, _ = RandomScaleCrop(IGNORE, size=size, scale=(scale, scale))(given, np.random.default_rng(seed))
        assert (image.shape, target.shape) == ((*size, 3), size)
        seen = target != IGNORE
        assert seen.any()
        assert not image[~seen].any()
        if scale >= 0.8:  # positions in the image say which label belongs there, to a pixel at the edge of a block
            row, column = image[..., 0].astype(int), image[..., 1].astype(int)
            inner = seen & (row % 8 > 1) & (row % 8 < 6) & (column % 8 > 1) & (column % 8 < 6)
            assert np.array_equal(target[inner], (row // 8 * 8 + column // 8 + 1)[inner])


def test_random_scale_crop_reaches_every_place_equally():
    crop = RandomScaleCrop(IGNORE, size=(8, 8), scale=(1.0, 1.0))
    hits = np.zeros((12, 12))
    given = Sample(np.zeros((12, 12, 3), np.uint8), np.arange(144, dtype=np.uint8).reshape(12, 12), "x")
    for seed in range(600):
        hits.ravel()[crop(given, np.random.default_rng(seed)).target[0, 0]] += 1
    assert (hits[:5, :5] > 5).all()
    assert hits.sum() == hits[:5, :5].sum()


def test_a_rare_class_is_shown_as_often_as_a_common_one():
    target = np.zeros((100, 100), np.uint8)
    target[70, 81] = 1
    target[:3] = IGNORE
    given = scene(target)
    seen = {}
    for share in (0.0, 0.5, 1.0):
        crop = RandomScaleCrop(IGNORE, size=(10, 10), scale=(1.0, 1.0), class_balanced=share)
        seen[share] = sum(1 in crop(given, np.random.default_rng(seed)).target for seed in range(400)) / 400
    assert seen[0.0] < 0.05
    assert 0.18 < seen[0.5] < 0.33
    assert 0.42 < seen[1.0] < 0.58


def test_the_pixel_of_a_rare_class_lies_anywhere_in_the_window():
    target = np.zeros((40, 40), np.uint8)
    target[20, 20] = 1
    given = scene(target)
    crop = RandomScaleCrop(IGNORE, size=(4, 4), scale=(1.0, 1.0), class_balanced=1.0)
    places = {
        tuple(np.argwhere(found == 1)[0])
        for found in (crop(given, np.random.default_rng(s)).target for s in range(400))
        if 1 in found
    }
    assert len(places) == 16


def test_windows_of_one_class_are_drawn_again():
    target = np.zeros((60, 60), np.uint8)
    target[:, 48:] = 1
    given = scene(target)
    shares = {}
    for limit in (1.0, 0.75):
        crop = RandomScaleCrop(IGNORE, size=(20, 20), scale=(1.0, 1.0), max_class_share=limit)
        crops = [crop(given, np.random.default_rng(seed)).target for seed in range(100)]
        shares[limit] = np.mean([(found == 0).all() or (found == 1).all() for found in crops])
    assert shares[1.0] > 0.5
    assert shares[0.75] < 0.2
    blank = given._replace(target=np.full((60, 60), IGNORE, np.uint8))
    assert (
        RandomScaleCrop(IGNORE, size=(9, 9), max_class_share=0.5, class_balanced=1.0)(
            blank, np.random.default_rng(0)
        ).target
        == IGNORE
    ).all()


def test_an_image_smaller_than_the_window_lies_anywhere_in_it():
    given = Sample(np.full((2, 2, 3), 9, np.uint8), np.ones((2, 2), np.uint8), "x")
    crop = RandomScaleCrop(IGNORE, size=(4, 4), scale=(1.0, 1.0))
    crops = [crop(given, np.random.default_rng(seed)) for seed in range(200)]
    assert {tuple(np.argwhere(target == 1)[0]) for _, target, _ in crops} == {
        (i, j) for i in range(3) for j in range(3)
    }
    for image, target, _ in crops:
        assert np.array_equal(image[..., 0] == 9, target == 1)
        assert (target == IGNORE).sum() == 12


def test_labels_are_never_mixed():
    checks = (np.indices((40, 40)).sum(axis=0) % 2 * 200).astype(np.uint8)
    for scale in (0.3, 0.7, 1.3, 2.9):
        crop = RandomScaleCrop(IGNORE, size=(30, 30), scale=(scale, scale))
        assert set(np.unique(crop(scene(checks), np.random.default_rng(0)).target)) <= {0, 200, IGNORE}
