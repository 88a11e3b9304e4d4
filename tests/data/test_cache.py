from pathlib import Path

import numpy as np
import pytest
import torch

from segtrain.data.cache import cached
from segtrain.data.combined import binary
from segtrain.data.crop import RandomScaleCrop
from segtrain.data.folder_pairs import folder_pairs
from segtrain.data.image_folder import image_folder
from segtrain.data.loading import train_loader, val_loader
from segtrain.data.scenes import Scenes, scenes
from segtrain.errors import DataError
from segtrain.registry import TRANSFORMS

SOURCE = scenes(length=6, size=(24, 32))


def test_a_sample_is_decoded_once_and_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = cached(of=SOURCE, folder=tmp_path / "cache")
    first = [dataset[i] for i in range(6)]
    assert len(list((tmp_path / "cache").iterdir())) == 12
    monkeypatch.setattr(Scenes, "__getitem__", lambda *_: pytest.fail("decoded again"))
    for index, sample in enumerate(first):
        again = dataset[index]
        assert np.array_equal(again.image, sample.image)
        assert np.array_equal(again.target, sample.target)
        assert again.id == sample.id == dataset.path(index)
    assert (len(dataset), dataset.kind, dataset.labels) == (6, "segmentation", SOURCE.labels)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("augment", [(), (RandomScaleCrop(255, size=(16, 16)), TRANSFORMS["ColorJitter"](255, p=1.0))])
def test_batches_are_those_of_the_source(tmp_path: Path, workers: int, augment: tuple):
    dataset = cached(of=SOURCE, folder=tmp_path)
    for _ in range(2):  # decoded, then mapped
        for given in (dataset, SOURCE):
            batches = train_loader(given, augment, batch_size=3, workers=workers, seed=0).start()
            batch = [next(batches) for _ in range(2)]
            if given is dataset:
                ours = batch
        assert all(
            torch.equal(a.image, b.image) and torch.equal(a.target, b.target) for a, b in zip(ours, batch, strict=True)
        )
    assert len(list(val_loader(dataset, batch_size=2, workers=workers))) == 3


@pytest.mark.parametrize("name", ["HorizontalFlip", "CoarseDropout", "PixelDropout", "RandomRain", "Erasing", "OneOf"])
def test_transforms_work_on_samples_that_cannot_be_written_to(tmp_path: Path, name: str):
    dataset = cached(of=SOURCE, folder=tmp_path)
    dataset[0]
    if name == "OneOf":
        transform = TRANSFORMS[name](255, of=[TRANSFORMS["GridDropout"](255, p=1.0)], p=1.0)
    else:
        transform = TRANSFORMS[name](255, p=1.0)
    changed = transform(dataset[0], np.random.default_rng(0))
    plain = transform(SOURCE[0], np.random.default_rng(0))
    assert np.array_equal(changed.image, plain.image)
    assert np.array_equal(dataset[0].image, SOURCE[0].image)


def test_other_labels_are_other_files(tmp_path: Path):
    for classes in (["pole"], ["person"]):
        cached(of=binary(of=SOURCE, classes=classes), folder=tmp_path)[0]
    assert len(list(tmp_path.iterdir())) == 4


def test_classification_is_cached_too(tmp_path: Path, save):
    save("set/train/a/x.png", np.zeros((3, 4, 3), np.uint8))
    dataset = cached(of=image_folder(root=tmp_path / "set"), folder=tmp_path / "cache")
    for _ in range(2):
        sample = dataset[0]
        assert (sample.target.shape, int(sample.target)) == ((), 0)


def test_a_bad_sample_leaves_no_file_and_a_bad_folder_is_named(tmp_path: Path, save):
    save("images/train/a.png", np.zeros((3, 4, 3), np.uint8))
    save("masks/train/a.png", np.full((3, 4), 9, np.uint8))
    source = folder_pairs(root=tmp_path, names=["a", "b"])
    with pytest.raises(DataError, match="holds 9"):
        cached(of=source, folder=tmp_path / "cache")[0]
    assert not list((tmp_path / "cache").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file cannot be made: .*give cached another folder"):
        cached(of=SOURCE, folder=tmp_path / "file")
    lost = cached(of=SOURCE, folder=tmp_path / "lost")
    (tmp_path / "lost").rmdir()
    (tmp_path / "lost").touch()
    with pytest.raises(DataError, match=r"cannot be written: .*give cached another folder"):
        lost[0]
