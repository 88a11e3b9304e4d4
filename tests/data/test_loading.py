import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.data.crop import RandomScaleCrop
from segtrain.data.feed import num_workers
from segtrain.data.labels import IGNORED_SAMPLE, LabelSpec
from segtrain.data.loading import train_loader, val_loader
from segtrain.data.scenes import scenes
from segtrain.errors import DataError
from segtrain.registry import TRANSFORMS
from segtrain.task import Batch, Kind, Sample

SCENES = scenes(length=11, size=(24, 32))
AUGMENT = (
    RandomScaleCrop(255, size=(16, 16), scale=(0.75, 1.5)),
    TRANSFORMS["HorizontalFlip"](255, p=0.5),
    TRANSFORMS["ColorJitter"](255, p=0.8),
)


class Numbers:
    """Samples that are their own number, in images of given sizes."""

    labels = LabelSpec(("a", "b"))
    kind: Kind = "segmentation"

    def __init__(self, count: int, sizes: Sequence[tuple[int, int]] = ((2, 3),)) -> None:
        self.count, self.sizes = count, sizes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        size = self.sizes[index % len(self.sizes)]
        return Sample(np.full((*size, 3), index, np.uint8), np.zeros(size, np.uint8), self.path(index))

    def path(self, index: int) -> str:
        return f"{index}.png"


class Labelled(Numbers):
    labels = LabelSpec(("a", "b"), ignore_index=IGNORED_SAMPLE)
    kind: Kind = "classification"

    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index)._replace(target=np.array(index % 2))


def take(count: int, batches: Iterator[Batch]) -> list[Batch]:
    with closing(batches):  # type: ignore[type-var]
        return list(itertools.islice(batches, count))


def equal(one: Batch, other: Batch) -> bool:
    return torch.equal(one.image, other.image) and torch.equal(one.target, other.target) and one.ids == other.ids


def loader(dataset: Any = SCENES, transforms: Any = AUGMENT, **given: Any) -> Any:
    return train_loader(dataset, transforms, **{"batch_size": 2, "workers": 0, "seed": 0, **given})


@pytest.fixture(scope="module")
def full_pass() -> list[Batch]:
    return take(12, loader().start(0))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_loader_started_anywhere_goes_on_as_one_that_ran_up_to_there(workers: int, full_pass: list[Batch]):
    for start in range(12):
        for one, other in zip(take(12 - start, loader(workers=workers).start(start)), full_pass[start:], strict=True):
            assert equal(one, other)


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_spawned_workers_give_what_forked_ones_give(full_pass: list[Batch], method: str):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(method, force=True)
    try:
        batches = take(3, loader(workers=1).start(0))
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert all(equal(one, other) for one, other in zip(batches, full_pass[:3], strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_has_its_own_order_and_its_own_augmentations(workers: int):
    dataset = scenes(length=2, size=(24, 32))
    batches = take(20, loader(dataset, batch_size=2, workers=workers).start(0))
    assert {batch.ids for batch in batches} == {batches[0].ids, batches[0].ids[::-1]}
    first = [batch.image[batch.ids.index(dataset.path(0))] for batch in batches]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(first, 2))


def test_samples_of_one_epoch_have_augmentations_of_their_own():
    corner = np.eye(2, dtype=np.uint8)[:1].repeat(2, axis=0)  # lighter on the left

    class Same(Numbers):
        def __getitem__(self, index: int) -> Sample:
            return Sample(np.stack([corner] * 3, axis=2), corner, self.path(index))

    batch = take(1, loader(Same(64), (TRANSFORMS["HorizontalFlip"](255, p=0.5),), batch_size=64).start(0))[0]
    assert 12 < int((batch.target[:, 0, 0] == 1).sum()) < 52


def test_another_seed_is_another_order():
    orders = {tuple(b.ids for b in take(5, loader(Numbers(11), (), seed=seed).start(0))) for seed in range(5)}
    assert len(orders) == 5


@settings(max_examples=80, deadline=None)
@given(samples=st.integers(1, 40), batch=st.integers(1, 6), world=st.integers(1, 4), epoch=st.integers(0, 3))
def test_ranks_together_see_what_one_process_sees(samples: int, batch: int, world: int, epoch: int):
    dataset = Numbers(samples)
    alone = loader(dataset, (), batch_size=batch * world)
    ranks = [loader(dataset, (), batch_size=batch, rank=rank, world=world) for rank in range(world)]
    count = alone.batches_per_epoch
    assert {rank.batches_per_epoch for rank in ranks} == {count}
    expected = take(count, alone.start(epoch * count))
    parts = zip(*(take(count, rank.start(epoch * count)) for rank in ranks), strict=True)
    seen = []
    for whole, shares in zip(expected, parts, strict=True):
        real = [
            name
            for share in shares
            for name, target in zip(share.ids, share.target, strict=True)
            if (target == 0).all()
        ]
        assert sorted(real) == sorted(whole.ids)
        assert max(len(share.ids) for share in shares) - min(len(share.ids) for share in shares) <= 1
        seen += real
    assert len(seen) == len(set(seen))
    assert len(seen) == (samples if samples < batch * world else count * batch * world)


def test_a_rank_without_a_sample_gets_one_that_is_all_ignored():
    for dataset, ignored in ((Numbers(1), 255), (Labelled(1), IGNORED_SAMPLE)):
        first, second = (take(1, loader(dataset, (), rank=rank, world=2).start(0))[0] for rank in range(2))
        assert (first.target == 0).all()
        assert (second.target == ignored).all()
        assert second.target.dtype == first.target.dtype
        assert second.target.shape == first.target.shape


def test_a_data_set_smaller_than_a_batch_still_trains():
    batches = take(3, loader(Numbers(3), (), batch_size=8).start(0))
    assert [len(batch.ids) for batch in batches] == [3, 3, 3]


def test_an_empty_training_set_is_refused():
    with pytest.raises(DataError, match="the training set is empty"):
        loader(Numbers(0), ())


def test_batches_are_bytes_in_the_order_of_the_files():
    batch = take(1, loader(workers=1).start(0))[0]
    assert (batch.image.dtype, batch.image.shape) == (torch.uint8, (2, 3, 16, 16))
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert (batch.target.dtype, batch.target.shape) == (torch.uint8, (2, 16, 16))
    assert batch.image.is_shared()


def test_classification_targets_are_one_int64_per_sample():
    batch = take(1, loader(Labelled(8), (), batch_size=4).start(0))[0]
    assert (batch.target.dtype, batch.target.shape) == (torch.int64, (4,))
    assert batch.target.tolist() == [int(name.split(".")[0]) % 2 for name in batch.ids]


def test_images_of_different_sizes_cannot_be_one_training_batch():
    with pytest.raises(DataError, match=r"different sizes .* 2x3 \(\d\.png\) and 4x5 .*RandomScaleCrop") as caught:
        take(4, loader(Numbers(8, ((2, 3), (4, 5))), (), batch_size=4).start(0))
    assert "data.augment" in str(caught.value)


def test_loading_leaves_the_random_numbers_of_training_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    take(2, loader(workers=1).start(0))
    list(val_loader(SCENES, batch_size=4, workers=1))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == str(np.random.get_state())  # noqa: NPY002


@settings(max_examples=80, deadline=None)
@given(samples=st.integers(1, 40), batch=st.integers(1, 6), world=st.integers(1, 8))
def test_evaluation_counts_each_image_once_on_any_number_of_ranks(samples: int, batch: int, world: int):
    dataset = Numbers(samples, ((2, 3), (2, 3), (4, 1)))
    seen = []
    for rank in range(world):
        batches = val_loader(dataset, batch_size=batch, workers=0, rank=rank, world=world)
        ids = [name for loaded in batches for name in loaded.ids]
        assert len(ids) == batches.num_samples
        seen += ids
    assert sorted(seen) == sorted(dataset.path(i) for i in range(samples))


def test_evaluation_pads_nothing_and_changes_nothing():
    dataset = Numbers(7, ((2, 3), (4, 5)))
    batches = list(val_loader(dataset, batch_size=4, workers=0))
    assert sorted(tuple(batch.image.shape) for batch in batches) == [
        (1, 3, 4, 5),
        (2, 3, 2, 3),
        (2, 3, 2, 3),
        (2, 3, 4, 5),
    ]
    for batch in batches:
        for image, name in zip(batch.image, batch.ids, strict=True):
            assert torch.equal(image, torch.from_numpy(dataset[int(name[:-4])].image).permute(2, 0, 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluating_again_gives_the_same(workers: int):
    batches = val_loader(SCENES, batch_size=4, workers=workers)
    assert len(batches) == 3
    first, second = list(batches), list(batches)
    assert len(first) == 3
    assert all(equal(one, other) for one, other in zip(first, second, strict=True))
    next(iter(batches))  # an evaluation that is broken off does not disturb the next
    assert all(equal(one, other) for one, other in zip(first, batches, strict=True))


def test_auto_leaves_a_small_machine_to_training(monkeypatch: pytest.MonkeyPatch):
    counts = {}
    for processors in (1, 2, 4, 8, 64, 256):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=processors: range(n))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        on_cpu = num_workers("auto")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        counts[processors] = (on_cpu, num_workers("auto"))
    assert counts == {1: (0, 1), 2: (0, 1), 4: (1, 3), 8: (2, 7), 64: (16, 16), 256: (16, 16)}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64))
    assert num_workers("auto") == 7
    assert num_workers(5) == 5


def test_what_is_prepared_for_evaluation_is_the_same_every_time_and_for_chosen_samples():
    crop = RandomScaleCrop(255, size=(3, 3), scale=(0.5, 2.0))
    loader = val_loader(Numbers(5, ((4, 5), (6, 3))), [crop], batch_size=2, workers=0)
    first, again = list(loader), list(loader)
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.target, b.target) for a, b in zip(first, again, strict=True)
    )
    images: dict[str, torch.Tensor] = {}
    for batch in first:
        images |= zip(batch.ids, batch.image, strict=True)
    (chosen,) = loader.some([4, 1])
    assert chosen.image.shape == (2, 3, 3, 3)
    assert all(torch.equal(image, images[name]) for name, image in zip(chosen.ids, chosen.image, strict=True))
