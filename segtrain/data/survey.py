"""What is in a data set: every sample looked at once, and what was seen added up."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from segtrain.data.dataset import Dataset
from segtrain.data.labelled import fits
from segtrain.data.sources import Origin, origin
from segtrain.errors import DataError, UserError
from segtrain.task import Sample

Raw = int | tuple[int, int, int]  # as it stands in a label file: an index or a colour
Size = tuple[int, int]  # width, height
Counts = npt.NDArray[np.int64]

UNKNOWN = -1  # stands for the train id of a raw value that has none
_COLOR = 1 << 24  # added to the code of a colour, so that it is no index


class Look(NamedTuple):
    """One sample: what its files are, and what they hold or why they cannot be used."""

    id: str
    errors: tuple[str, ...] = ()
    size: Size | None = None
    image: str = ""  # "JPEG RGB"; empty without a file
    label: str = ""
    raw: dict[tuple[Raw, int], int] = {}  # noqa: RUF012 - pixels by raw value and train id
    pixels: Counts | None = None  # [K]
    ignored: int = 0
    image_digest: bytes = b""
    label_digest: bytes = b""
    mean: npt.NDArray[np.float64] | None = None  # [3], 0 to 255
    variance: npt.NDArray[np.float64] | None = None
    box_fits: bool = True


def look(dataset: Dataset, index: int) -> Look:
    """Read one sample. What is wrong with it becomes part of the result."""
    files = origin(dataset, index)
    seen = Look(dataset.path(index), image=form(files.image), label=form(files.label))
    try:
        sample = dataset[index]
    except UserError as error:
        return seen._replace(errors=error.messages, raw=_raw(files, None))
    except Exception as error:
        return seen._replace(errors=(f"{dataset.path(index)}: {type(error).__name__}: {error}",))
    return _seen(seen, sample, files, len(dataset.labels.names))


def form(file: Path | None) -> str:
    """The format and mode of an image file, from its header: "PNG L"."""
    if file is None:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                return f"{image.format} {image.mode}"
    except Exception:  # whatever is wrong with the file is told by reading it
        return "MAT" if file.suffix == ".mat" else f"unreadable {file.suffix}"


def _seen(seen: Look, sample: Sample, files: Origin, num_classes: int) -> Look:
    height, width = sample.image.shape[:2]
    target = np.atleast_1d(sample.target)
    valid = target[(target >= 0) & (target < num_classes)]
    mean, deviation = cv2.meanStdDev(sample.image)
    return seen._replace(
        size=(width, height),
        raw=_raw(files, sample.target) if sample.target.ndim else {},
        pixels=np.bincount(valid.ravel(), minlength=num_classes),
        ignored=int(target.size - valid.size),
        image_digest=_digest(sample.image),
        label_digest=_digest(sample.target),
        mean=np.asarray(mean[:, 0], np.float64),
        variance=np.asarray(deviation[:, 0], np.float64) ** 2,
        box_fits=files.box is None or fits(files.box, width, height),
    )


def _digest(array: npt.NDArray[Any]) -> bytes:
    content = hashlib.sha256(repr(array.shape).encode())
    content.update(np.ascontiguousarray(array).view(np.uint8).data)
    return content.digest()[:16]


def _raw(files: Origin, target: npt.NDArray[Any] | None) -> dict[tuple[Raw, int], int]:
    """How many pixels hold each raw value and became each train id. Nothing where the label file cannot be read."""
    if files.label is None or files.read_label is None:
        return {}
    try:
        raw = files.read_label(files.label)
    except DataError:
        return {}
    if raw.ndim == 3:
        raw = raw.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1]) + _COLOR
    train = np.full(raw.shape, UNKNOWN) if target is None or target.shape != raw.shape else target
    codes, counts = _counted((raw.astype(np.int64) << 9) + (train.astype(np.int64) + 1))
    return {(_raw_value(code >> 9), (code & 511) - 1): n for code, n in zip(codes, counts, strict=True)}


def _counted(codes: npt.NDArray[np.int64]) -> tuple[list[int], list[int]]:
    low, high = int(codes.min()), int(codes.max())
    if high - low < 1 << 18:  # several times quicker than sorting
        counts = np.bincount((codes - low).ravel())
        values = np.flatnonzero(counts)
        return (values + low).tolist(), counts[values].tolist()
    values, counts = np.unique(codes, return_counts=True)
    return values.tolist(), counts.tolist()


def _raw_value(code: int) -> Raw:
    if code < _COLOR:
        return code
    return (code >> 16) & 255, (code >> 8) & 255, code & 255


@dataclass
class Survey:
    """What the looks at a data set come to."""

    names: tuple[str, ...]
    listed: int  # samples in the data set
    read: int = 0
    failures: list[Look] = field(default_factory=list)
    sizes: Counter[Size] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    raw: Counter[tuple[Raw, int]] = field(default_factory=Counter)
    ignored: int = 0
    unlabelled: list[str] = field(default_factory=list)  # samples in which everything is ignored
    boxes_off: list[str] = field(default_factory=list)  # samples whose box reaches out of the image
    by_content: dict[bytes, list[tuple[str, bytes]]] = field(default_factory=dict)  # id and digest of the labels

    def __post_init__(self) -> None:
        self.pixels = np.zeros(len(self.names), np.int64)
        self.images_with = np.zeros(len(self.names), np.int64)
        self.seen = np.zeros(len(self.names), np.int64)  # valid pixels of the images that hold the class
        self._moments = np.zeros((3, 3))  # pixels, sum, sum of squares for each channel

    def add(self, one: Look) -> None:
        """Count one sample."""
        self.read += 1
        self.images[one.image] += 1
        self.labels[one.label] += 1
        self.raw.update(one.raw)
        if one.size is None or one.pixels is None or one.mean is None or one.variance is None:
            self.failures.append(one)
            return
        self.sizes[one.size] += 1
        self.pixels += one.pixels
        self.images_with += one.pixels > 0
        self.seen += (one.pixels > 0) * one.pixels.sum()
        self.ignored += one.ignored
        if not one.pixels.any():
            self.unlabelled.append(one.id)
        if not one.box_fits:
            self.boxes_off.append(one.id)
        self.by_content.setdefault(one.image_digest, []).append((one.id, one.label_digest))
        n = one.size[0] * one.size[1]
        self._moments += n * np.stack([np.ones(3), one.mean, one.variance + one.mean**2])

    @property
    def usable(self) -> int:
        """Samples that could be read."""
        return self.read - len(self.failures)

    @property
    def mean(self) -> list[float]:
        """Of all pixels of all images, by channel, 0 to 255."""
        total, sums, _ = self._moments
        means: list[float] = (sums / np.maximum(total, 1)).tolist()
        return means

    @property
    def deviation(self) -> list[float]:
        """The standard deviation that belongs to `mean`."""
        total, sums, squares = self._moments / np.maximum(self._moments[0], 1)
        deviations: list[float] = np.sqrt(np.maximum(squares - sums**2, 0) * (total > 0)).tolist()
        return deviations


class Copies(NamedTuple):
    """Samples of one image, pixel by pixel."""

    samples: tuple[tuple[str, str], ...]  # split, id
    across: bool  # whether they are in several splits
    differing: bool  # whether their labels differ


def copies(surveys: Mapping[str, Survey]) -> list[Copies]:
    """The images that occur more than once."""
    held: dict[bytes, list[tuple[str, str, bytes]]] = {}
    for split, survey in surveys.items():
        for content, samples in survey.by_content.items():
            held.setdefault(content, []).extend((split, name, labels) for name, labels in samples)
    return [
        Copies(
            tuple((split, name) for split, name, _ in samples),
            len({split for split, _, _ in samples}) > 1,
            len({labels for _, _, labels in samples}) > 1,
        )
        for samples in held.values()
        if len(samples) > 1
    ]


def chosen(length: int, limit: int | None) -> list[int]:
    """`limit` indices of `length`, evenly spread; None: all."""
    if limit is None or limit >= length:
        return list(range(length))
    spread: list[int] = np.linspace(0, length - 1, limit).round().astype(int).tolist()
    return sorted(set(spread))


def looks(dataset: Dataset, indices: Sequence[int], workers: int = 0) -> Iterator[Look]:
    """A look at each of the samples, in order, in `workers` processes.

    A decoder that crashes on a damaged file takes its process along and not this one; the file is named.
    """
    if workers == 0:
        yield from (look(dataset, index) for index in indices)
        return
    pending = deque(indices)
    while pending:
        try:
            for seen in _in_processes(dataset, pending, workers):
                yield seen
                pending.popleft()
        except BrokenProcessPool:
            suspects = [pending.popleft() for _ in range(min(len(pending), workers * _CHUNK * 2))]
            yield from map(partial(_alone, dataset), suspects)


_CHUNK = 4
_dataset: list[Dataset] = []  # of a process that looks


def _in_processes(dataset: Dataset, indices: Iterable[int], workers: int) -> Iterator[Look]:
    with ProcessPoolExecutor(workers, initializer=_begin, initargs=(dataset,)) as pool:
        try:
            yield from pool.map(_look, list(indices), chunksize=_CHUNK)
        finally:
            pool.shutdown(cancel_futures=True)


def _alone(dataset: Dataset, index: int) -> Look:
    try:
        return next(_in_processes(dataset, [index], 1))
    except BrokenProcessPool:
        name = dataset.path(index)
        trouble = f"{name}: reading it crashed the process; the file is damaged, fetch it again or leave it out"
        return Look(name, (trouble,))


def _begin(dataset: Dataset) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for these
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    cv2.setNumThreads(0)
    _dataset[:] = [dataset]


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _look(index: int) -> Look:
    return look(_dataset[0], index)


def processes() -> int:
    """As many processes as this one may use processors, up to 16."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
