"""The processes that load samples, and what happens when one of them fails."""

from __future__ import annotations

import gc
import operator
import os
import shutil
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from segtrain.data.dataset import Dataset, checked_sample
from segtrain.data.order import shuffled
from segtrain.data.paths import some
from segtrain.data.reading import Noted, exists
from segtrain.data.transforms import InTurn
from segtrain.data.windows import opened
from segtrain.errors import DataError
from segtrain.processors import allowed_processors
from segtrain.task import Batch, Sample

Loaded = TypeVar("Loaded")
Workers = int | Literal["auto"]
ORDER, AUGMENT = 0, 1  # what random numbers are for; keeps their streams apart
SMALL = 1 << 30  # bytes of shared memory
POLL_S = 2.0  # how soon the death of a worker is noticed


class Key(NamedTuple):
    """A sample to load: for which epoch, which one; of an `empty` one all labels are ignored.

    `turn`: how often the epoch had it before. Each time other things happen to it.
    """

    epoch: int
    sample: int
    empty: bool = False
    turn: int = 0


@dataclass(frozen=True)
class Source(TorchDataset[Sample | DataError]):
    """Augmented samples by key.

    What goes wrong is returned and not raised: an error that cannot be pickled would leave the training process
    waiting for ever.
    """

    dataset: Dataset
    transform: InTurn
    seed: int

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The samples in the order of this epoch, repetitions as `shuffled` writes them."""
        return shuffled(self.dataset, np.random.default_rng((ORDER, self.seed, epoch)))

    def __getitem__(self, key: Key) -> Sample | DataError:
        try:
            rng = np.random.default_rng((AUGMENT, self.seed, key.epoch, key.sample, *[key.turn] * (key.turn > 0)))
            read = opened if self.transform.begins_with_a_window else operator.getitem
            sample = checked_sample(self.transform(read(self.dataset, key.sample), rng), self.dataset, key.sample)
        except DataError as error:
            return error
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{place.filename}:{place.lineno}"
            return DataError(f"{self.dataset.path(key.sample)}: {type(error).__name__}: {error} (raised at {where})")
        if key.empty:
            return sample._replace(target=np.full_like(sample.target, self.dataset.labels.ignore_index))
        return sample


def one_batch(samples: Sequence[Sample | DataError]) -> Batch | DataError:
    """All samples in one batch, or the first error among them, or the error that they differ in size."""
    batches = batches_by_size(samples)
    if isinstance(batches, DataError):
        return batches
    if len(batches) == 1:
        return batches[0]
    sizes = " and ".join(f"{batch.image.shape[2]}x{batch.image.shape[3]} ({batch.ids[0]})" for batch in batches[:2])
    return DataError(
        f"images of different sizes cannot be trained on in one batch: {sizes}; add a transform that "
        "gives all of them one size, such as data.augment: [{name: RandomScaleCrop, size: [512, 512]}]"
    )


def batches_by_size(samples: Sequence[Sample | DataError]) -> list[Batch] | DataError:
    """The samples in batches of one size each, see `by_size`; or the first error among them."""
    fine: list[Sample] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        fine.append(sample)
    return by_size(fine)


def by_size(samples: Sequence[Sample]) -> list[Batch]:
    """The samples in batches of one size each, in order of appearance."""
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.image.shape, []).append(sample)
    return [_stack(group) for group in groups.values()]


def _stack(samples: Sequence[Sample]) -> Batch:
    """One copy per sample, in a worker straight into the memory shared with the training process.

    The image tensor is [B, 3, H, W] over memory in the order of the files, B H W 3: "channels_last".
    """
    image = default_collate([torch.from_numpy(np.require(sample.image, requirements=["C", "W"])) for sample in samples])
    target = default_collate(
        [torch.from_numpy(np.require(sample.target, requirements=["C", "W"])) for sample in samples]
    )
    return Batch(image.permute(0, 3, 1, 2), target, tuple(sample.id for sample in samples))


class Feed(Generic[Loaded]):
    """What `collate` makes of the samples behind each list of keys, in order, loaded ahead by worker processes.

    Raises DataError for anything that goes wrong with a sample, and names the samples under way when a worker dies or
    is silent for `timeout_s`.
    """

    def __init__(
        self,
        source: Source,
        order: Callable[[], Iterator[list[Key]]],
        collate: Callable[[Sequence[Sample | DataError]], Loaded | DataError],
        workers: int,
        timeout_s: float,
        *,
        keep_workers: bool = False,
    ) -> None:
        self._noted = Noted(source, workers)
        self._path = source.dataset.path
        self._timeout_s = timeout_s
        self._order = _Order(order, deque())
        cv2.setNumThreads(0)  # the processes are the parallelism
        self._loader: DataLoader[Any] = DataLoader(
            self._noted,
            batch_sampler=self._order,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            timeout=min(POLL_S, timeout_s) if workers else 0,
            generator=torch.Generator(),  # of its own, or it would draw from the one that training draws from
            persistent_workers=keep_workers and workers > 0,
        )

    def __iter__(self) -> Iterator[Loaded]:
        self._loader.worker_init_fn = partial(_begin_worker, os.getpid())
        batches = _without_sigchld(lambda: iter(self._loader))
        loaded: Loaded | DataError | None = None
        try:
            while (loaded := self._next(batches)) is not None:
                if isinstance(loaded, DataError):
                    raise loaded
                self._order.asked.popleft()
                yield loaded
        finally:
            # an error's traceback refers to this frame; its processes are not to live as long as that
            del batches, loaded

    def _next(self, batches: Iterator[Loaded | DataError]) -> Loaded | DataError | None:
        """The next thing, or the error that it did not come; None at the end."""
        patience = time.monotonic() + self._timeout_s
        while True:
            try:
                return next(batches, None)
            except RuntimeError as error:
                trouble = str(error)
            if "timed out" not in trouble:
                return self._failure(trouble, self._noted.in_hand(of_the_dead=True))
            if time.monotonic() > patience:
                trouble = f"no batch came from the loader's processes for {self._timeout_s:g} s"
                return self._failure(trouble, self._noted.in_hand(of_the_dead=False))

    def _failure(self, trouble: str, in_hand: list[int]) -> DataError:
        """`in_hand`: what was being read at that moment. Most likely it is the file, but memory may also be full."""
        reading = f" while reading {some([self._path(sample) for sample in in_hand])}" if in_hand else ""
        names = [self._path(key.sample) for keys in self._order.asked for key in keys]
        return DataError(
            f"{trouble}{reading}; being loaded were: {some(names, 32)}; data.workers: 0 loads without processes"
            f"{_small_memory()}"
        )


def _small_memory() -> str:
    """Batches travel through shared memory, of which containers have little; a worker that finds it full is killed."""
    folder = Path("/dev/shm")
    size = shutil.disk_usage(folder).total if folder.is_dir() else SMALL
    return f". {folder} has {size >> 20} MiB in all: is it full? (docker run --shm-size=8g)" if size < SMALL else ""


@dataclass(frozen=True)
class _Order:
    """What to load, from the start at each iteration; `asked` is what has been asked for and has not come yet."""

    start: Callable[[], Iterator[list[Key]]]
    asked: deque[list[Key]]

    def __iter__(self) -> Iterator[list[Key]]:
        self.asked.clear()
        for keys in self.start():
            self.asked.append(keys)
            yield keys


def _without_sigchld(start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """torch installs a handler that raises wherever the training is when a worker dies; here it is found by polling."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return start()
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return start()
    finally:
        signal.signal(signal.SIGCHLD, before)


def _begin_worker(trainer: int, number: int) -> None:
    """Signals to the process group are for the training process, which still wants batches until it has saved."""
    cv2.setNumThreads(0)
    gc.freeze()  # what a fork inherits is not for this process to tidy up: it could be another loader's workers
    if not hasattr(signal, "sigwaitinfo"):
        return
    for name in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_leave_with, args=(trainer,), daemon=True).start()


def _leave_with(trainer: int) -> None:
    """End this process when the training process says so by SIGTERM or is gone, even when it is stuck in a file.

    torch looks for its parent as well, but for the one that it has when the worker is ready: of a trainer that was
    killed a moment before, the worker would wait for ever.
    """
    parent = os.getppid()  # the trainer, or a server that forks for it
    while os.getppid() == parent and exists(trainer):
        told = signal.sigtimedwait({signal.SIGTERM}, POLL_S)
        if told is not None and told.si_pid == trainer:
            break
    os._exit(0)


def num_workers(workers: Workers) -> int:
    """Loader processes per rank; `auto` takes the processors that this process may use and training leaves free.

    A GPU leaves almost all of them, so one is kept for the training process; on CPU training itself wants them all, so
    one in four loads, and with fewer than four the training process loads by itself.
    """
    if workers != "auto":
        return workers
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    processors = allowed_processors() // ranks_here
    return min(16, max(1, processors - 1)) if torch.cuda.is_available() else min(16, processors // 4)
