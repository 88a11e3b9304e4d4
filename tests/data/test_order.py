"""How often an epoch takes each sample."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from segtrain.data.cache import Cached
from segtrain.data.combined import Binary, Concatenated, Part
from segtrain.data.labelled import Labelled, LabelledImages, class_labels
from segtrain.data.labels import LabelSpec
from segtrain.data.loading import train_loader
from segtrain.data.order import Weights, sampling_weights, shuffled
from segtrain.task import Sample

LABELS = LabelSpec(("a", "b"))


@dataclass(frozen=True)
class Weighted:
    weights: tuple[float, ...] | None
    labels: LabelSpec = LABELS
    kind: str = "segmentation"

    def __len__(self) -> int:
        return len(self.weights) if self.weights else 3

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.full((4, 4, 3), index, np.uint8), np.zeros((4, 4), np.uint8), str(index))

    def path(self, index: int) -> str:
        return str(index)


@sampling_weights.register
def _(dataset: Weighted) -> Weights | None:
    return None if dataset.weights is None else np.array(dataset.weights)


def drawn(dataset: object, seed: int) -> np.ndarray:
    count = len(dataset)
    order = shuffled(dataset, np.random.default_rng(seed))
    assert len(order) == count
    return np.bincount(order % count, minlength=count)


def test_samples_are_drawn_in_proportion_to_their_weights():
    weights = np.array([0, 1, 2, 5, 0.5, 1.5])
    share = weights / weights.sum() * 6
    times = np.array([drawn(Weighted(tuple(weights)), seed) for seed in range(2000)])
    assert (times >= np.floor(share)).all()
    assert (times <= np.ceil(share)).all()
    assert np.allclose(times.mean(axis=0), share, atol=0.05)


def test_equal_weights_take_each_sample_once():
    for seed in range(20):
        assert (drawn(Weighted((0.1,) * 7), seed) == 1).all()


def test_a_large_set_of_which_one_sample_counts_is_that_sample_over_and_over():
    order = shuffled(Weighted((0.0,) * 999 + (1e-9,)), np.random.default_rng(0))
    assert sorted(order.tolist()) == [999 + 1000 * turn for turn in range(1000)]


def test_other_things_happen_to_a_sample_each_time_that_an_epoch_has_it():
    def draw(sample, rng):
        return sample._replace(image=rng.integers(0, 256, (4, 4, 3)).astype(np.uint8))

    loader = train_loader(Weighted((1.0, 0.0, 0.0, 0.0)), [draw], batch_size=4, workers=0, seed=0)
    first, second = loader.again(0, 2)
    assert first.ids == ("0",) * 4
    images = [image.numpy().tobytes() for batch in (first, second) for image in batch.image]
    assert len({*images}) == 8
    assert [image.numpy().tobytes() for image in loader.again(1, 1)[0].image] == images[4:]


def test_ranks_share_what_one_process_would_draw():
    dataset = Weighted((4.0, 1, 1, 2, 0, 1, 1, 2))
    alone = train_loader(dataset, (), batch_size=4, workers=0, seed=3).again(0, 4)
    ranks = [
        train_loader(dataset, (), batch_size=2, workers=0, seed=3, rank=rank, world=2).again(0, 4) for rank in range(2)
    ]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert sorted(whole.ids) == sorted(name for part in parts for name in part.ids)


def test_sets_of_sets_keep_the_weights(tmp_path: Path):
    one, other = Weighted((1.0, 2.0)), Weighted(None)
    assert sampling_weights(Part(one, (1,))).tolist() == [2.0]
    assert sampling_weights(Part(other, (1,))) is None
    assert sampling_weights(Concatenated((one, other))).tolist() == [1, 2, 1, 1, 1]
    assert sampling_weights(Concatenated((other, other))) is None
    assert sampling_weights(Cached(one, tmp_path)).tolist() == [1, 2]
    assert sampling_weights(Binary(one, (1,), LABELS)).tolist() == [1, 2]


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_weights_that_are_all_alike_change_nothing(tmp_path, weight):
    items = tuple(Labelled(tmp_path / name, 0, weight=weight) for name in "abc")
    assert sampling_weights(LabelledImages(tmp_path, items, class_labels(("x",)))) is None
