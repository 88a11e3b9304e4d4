"""Samples from shards: plain tar files with an index, so that any sample is one read, from any of many disks."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from segtrain.data.images import read_image, read_mask
from segtrain.data.labels import LabelSpec
from segtrain.data.order import shuffled
from segtrain.data.paths import find_root
from segtrain.data.shard_cache import ShardCache
from segtrain.data.shard_files import HEADER, META, Row, Shard, Sharded, first_rows, read_description
from segtrain.errors import DataError
from segtrain.registry import DATASETS
from segtrain.task import Kind, Sample


class Record(NamedTuple):
    """A sample as it is stored."""

    name: Path  # of the image, for messages: its shard and its name in there
    image: bytes
    label: bytes


@dataclass(frozen=True)
class Shards:
    """The samples of one split in the order in which they were written. Nothing stays open between two of them."""

    folders: tuple[Path, ...]  # where shards may lie; shards.json and the index are in the first
    split: str
    described: Sharded
    labels: LabelSpec
    kind: Kind
    cache: ShardCache | None = None
    window: int | None = None

    def __len__(self) -> int:
        return len(self.described.rows)

    def __getitem__(self, index: int) -> Sample:
        row = self._row(index)
        record = self.read(row)
        image = read_image(record.name, record.image)
        if self.kind == "classification":
            return Sample(image, np.array(row.label), _id(record.name))
        target = self.labels.decode(read_mask(record.name.with_suffix(".seg.png"), record.label), str(record.name))
        if image.shape[:2] != target.shape:
            raise DataError(f"{record.name} and its label differ in size; the shard is damaged, fetch it again")
        return Sample(image, target, _id(record.name))

    def path(self, index: int) -> str:
        row = self._row(index)
        try:
            return _id(self._name(row, self._bytes(row, HEADER)))
        except DataError:
            return f"{self.described.shards[row.shard].file}, sample {index}"

    def read(self, row: Row) -> Record:
        """The stored bytes of a sample, in one read. Raises DataError if they are not where the index says."""
        image_end = HEADER + row.image_size
        end = row.label + row.label_size if row.label_size else row.image + row.image_size
        content = self._bytes(row, HEADER + end - row.image)
        label = content[len(content) - row.label_size :] if row.label_size else b""
        return Record(self._name(row, content[:HEADER]), content[HEADER:image_end], label)

    def order(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """A permutation of the samples. With a `window`, so many shards at a time are mixed, in a random order."""
        if self.window is None:
            return rng.permutation(len(self))
        spans = list(first_rows(self.described.shards))
        mixed = rng.permutation(len(spans))
        windows = [mixed[start : start + self.window] for start in range(0, len(spans), self.window)]
        return np.concatenate(
            [rng.permutation(np.concatenate([np.arange(*spans[shard]) for shard in window])) for window in windows]
        )

    def _row(self, index: int) -> Row:
        return Row(*self.described.rows[index].tolist())

    def _bytes(self, row: Row, count: int) -> bytes:
        """`count` bytes from the header of the image on."""
        shard = self.described.shards[row.shard]
        for file in self._places(shard):
            try:
                descriptor = os.open(file, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                content = os.pread(descriptor, count, row.image - HEADER)
            finally:
                os.close(descriptor)
            if len(content) < count:
                size = file.stat().st_size
                raise DataError(f"{file} has {size:,} of {shard.bytes:,} bytes: it was copied in part; fetch it again")
            return content
        places = ", ".join(str(folder) for folder in self.folders)
        raise DataError(f"{shard.file} is in none of {places}; fetch it, or name its folder in places")

    def _places(self, shard: Shard) -> Sequence[Path]:
        stored = [folder / shard.file for folder in self.folders]
        if self.cache is None:
            return stored
        local = self.cache.local(f"{shard.sha256[:32]}.tar", shard.bytes, stored)
        return [local, *stored] if local is not None else stored

    def _name(self, row: Row, header: bytes) -> Path:
        """The name in the header, which must be that of a file as large as the index says."""
        shard = self.described.shards[row.shard].file
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise DataError(_mismatch(shard, row)) from error
        if info.size != row.image_size:
            raise DataError(_mismatch(shard, row))
        return Path(shard, info.name)


@DATASETS.register("shards")
def shards(
    *,
    root: Path,
    split: str = "train",
    places: list[Path] | None = None,
    window: Annotated[int, Field(ge=1)] | None = None,
    cache: Path | None = None,
    cache_gib: Annotated[float, Field(gt=0)] = 100.0,
) -> Shards:
    """What `tools/data.py convert --to shards` writes: shards.json, an index and tar files, in `root`.

    `places`: more folders in which tar files lie, so that one data set may be spread over many disks.
    `window`: so many shards are mixed at a time instead of all, which reads each of them in one stretch of an epoch;
    for data larger than the memory or the cache. `cache`: a folder on a local disk to which whole shards are copied at
    their first use, up to `cache_gib`; with a `window` the oldest copies make room, otherwise what does not fit is read
    where it is.
    """
    folder = find_root(root, META, f"{{{META}, {split}.index.npy, {split}-*.tar}}")
    described = read_description(folder, split)
    if described.kind not in ("segmentation", "classification"):
        raise DataError(f"{folder / META} has the kind '{described.kind}'; known are segmentation, classification")
    kind: Kind = "segmentation" if described.kind == "segmentation" else "classification"
    labels = LabelSpec(described.names, described.palette, ignore_index=described.ignore_index)
    kept = ShardCache(cache, int(cache_gib * 2**30), evict=window is not None) if cache is not None else None
    return Shards((folder, *(places or [])), split, described, labels, kind, kept, window)


def _id(name: Path) -> str:
    return name.with_suffix("").as_posix()


def _mismatch(shard: str, row: Row) -> str:
    return (
        f"{shard} has no image of {row.image_size:,} bytes at {row.image:,}, where the index says one is: shards and "
        "index are of different conversions, or the shard is damaged; fetch both again"
    )


@shuffled.register
def _(dataset: Shards, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return dataset.order(rng)
