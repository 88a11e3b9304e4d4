"""Batches from data sets: in what order, augmented by which random numbers, read by which processes.

The order of a training epoch is a permutation drawn from (seed, epoch); what happens to a sample is drawn from
(seed, epoch, index). So a loader started at any batch goes on exactly as one that ran up to there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from segtrain.data.dataset import Dataset
from segtrain.data.feed import Feed, Key, Source, Workers, batches_by_size, num_workers, one_batch
from segtrain.data.transforms import Transform, compose
from segtrain.errors import DataError
from segtrain.task import Batch


def train_loader(
    dataset: Dataset,
    transforms: Sequence[Transform],
    *,
    batch_size: int,
    workers: Workers = "auto",
    seed: int,
    rank: int = 0,
    world: int = 1,
    timeout_s: float = 600.0,
) -> TrainLoader:
    """Endless augmented batches of `batch_size` per rank; see TrainLoader.

    `timeout_s`: how long a worker process may take for one batch before it counts as stuck.
    """
    if len(dataset) == 0:
        raise DataError("the training set is empty; there is nothing to learn from")
    source = Source(dataset, compose(transforms), seed)
    return TrainLoader(source, batch_size, num_workers(workers), rank, world, timeout_s)


@dataclass(frozen=True)
class TrainLoader:
    """Batches without end, from any position on.

    An epoch gives each sample at most once over all ranks, in batches of `batch_size` per rank; samples with sampling
    weights come in proportion to these, and then some more than once. The samples left over
    when they do not divide are left out of that epoch; other epochs leave out others. A data set smaller than one
    batch still trains: its epoch is one smaller batch, shared out evenly, and a rank that gets nothing of it sees one
    sample with all labels ignored.
    """

    source: Source
    batch_size: int
    workers: int
    rank: int
    world: int
    timeout_s: float

    @property
    def batches_per_epoch(self) -> int:
        """At least 1."""
        return max(1, len(self.source.dataset) // (self.batch_size * self.world))

    def start(self, batch: int = 0) -> Iterator[Batch]:
        """Batches from number `batch` on, counted over all epochs. Raises DataError naming what cannot be loaded.

        Closing the iterator, or dropping it, ends its worker processes.
        """
        feed = Feed(self.source, lambda: self._keys(batch), one_batch, self.workers, self.timeout_s)
        return iter(feed)

    def again(self, batch: int, count: int, rank: int | None = None) -> list[Batch]:
        """Batches `batch` to `batch + count`, of this rank or another one, loaded by this process alone."""
        here = replace(self, workers=0, rank=self.rank if rank is None else rank)
        with closing(here.start(batch)) as batches:  # type: ignore[type-var]
            return list(itertools.islice(batches, count))

    def _keys(self, batch: int) -> Iterator[list[Key]]:
        """What this rank loads for each batch, from number `batch` on."""
        together = self.batch_size * self.world
        first_epoch, first = divmod(batch, self.batches_per_epoch)
        for epoch in itertools.count(first_epoch):
            order = self.source.order(epoch)
            for position in range(first, self.batches_per_epoch):
                mine = order[position * together : (position + 1) * together][self.rank :: self.world]
                yield [self._key(epoch, i) for i in mine] or [self._key(epoch, order[0])._replace(empty=True)]
            first = 0

    def _key(self, epoch: int, place: int) -> Key:
        turn, sample = divmod(int(place), len(self.source.dataset))
        return Key(epoch, sample, turn=turn)


def val_loader(
    dataset: Dataset,
    transforms: Sequence[Transform] = (),
    *,
    batch_size: int,
    workers: Workers = "auto",
    rank: int = 0,
    world: int = 1,
    timeout_s: float = 600.0,
) -> ValLoader:
    """Every sample once over all ranks, prepared by `transforms` in the same way each time; see ValLoader."""
    if len(dataset) == 0:
        raise DataError("the validation set is empty; there is nothing to judge by")
    source = Source(dataset, compose(transforms), seed=0)
    mine = range(rank, len(dataset), world)
    keys = [[Key(0, sample) for sample in mine[i : i + batch_size]] for i in range(0, len(mine), batch_size)]
    feed = Feed(source, lambda: iter(keys), batches_by_size, num_workers(workers), timeout_s, keep_workers=True)
    return ValLoader(source, feed, len(mine), len(keys))


@dataclass(frozen=True)
class ValLoader:
    """Batches of up to `batch_size` neighbours of one size: nothing is padded, so no metric depends on batching.

    Iterating again starts over, with the same worker processes. Ranks may have different numbers of batches, also none.
    """

    source: Source
    feed: Feed[list[Batch]]
    num_samples: int  # on this rank
    num_loads: int

    def some(self, samples: Sequence[int]) -> list[Batch]:
        """These samples of the whole set, prepared as all are. Raises DataError naming what cannot be loaded."""
        batches = batches_by_size([self.source[Key(0, sample)] for sample in samples])
        if isinstance(batches, DataError):
            raise batches
        return batches

    def __len__(self) -> int:
        """The number of batches where all images have one size, and a lower bound otherwise."""
        return self.num_loads

    def __iter__(self) -> Iterator[Batch]:
        return itertools.chain.from_iterable(self.feed)
