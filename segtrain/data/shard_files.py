"""The files of a sharded data set: plain tar files, an index of where in them each sample lies, and what it all means.

shards.json           kind, names, palette, ignore_index; of each split its shards with samples, bytes and sha256
train.index.npy       int64 [N, 5], see `Row`; memory-mapped, so a billion samples cost no memory
train-000000.tar, …   key.jpg + key.seg.png, or key.jpg + key.cls: what webdataset reads as well
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segtrain.data.dataset import Dataset
from segtrain.data.encode import index_png, png
from segtrain.data.names import safe_names
from segtrain.data.sources import origin
from segtrain.errors import DataError

FORMAT = "segtrain shards 1"
META = "shards.json"
HEADER = tarfile.BLOCKSIZE  # bytes before the content of a member
COLUMNS = 5


class Row(NamedTuple):
    """Where a sample is. In classification `label` is the class and `label_size` 0."""

    shard: int
    image: int  # offset of the content in bytes; its header stands before it
    image_size: int
    label: int
    label_size: int


class Shard(NamedTuple):
    """A tar file."""

    file: str
    samples: int
    bytes: int
    sha256: str


def shard_name(split: str, number: int) -> str:
    """`train-000012.tar`"""
    return f"{split}-{number:06d}.tar"


def index_name(split: str) -> str:
    """`train.index.npy`"""
    return f"{split}.index.npy"


def write_shards(
    folder: Path,
    split: str,
    dataset: Dataset,
    *,
    shard_bytes: int = 256 << 20,
    seed: int | None = None,
    watch: Callable[[Iterable[Any]], Any] = iter,
) -> None:
    """Add a split to `folder`. A `seed` mixes the samples, so that each shard is a fair part of them.

    Images are stored as the bytes of their files where the sample is the whole file, as PNG otherwise. `watch` goes
    around the samples to show progress. Raises DataError for the first sample that cannot be read.
    """
    names = [name.replace(".", "_") for name in safe_names(dataset, limit=80)]  # a key ends at the first dot
    order = np.arange(len(dataset)) if seed is None else np.random.default_rng(seed).permutation(len(dataset))
    rows, shards = np.empty((len(dataset), COLUMNS), np.int64), list[Shard]()
    writer = _Writer(folder / shard_name(split, 0))
    try:
        for place, source in enumerate(watch(order.tolist())):
            if writer.samples and writer.size > shard_bytes:
                shards.append(writer.close())
                writer = _Writer(folder / shard_name(split, len(shards)))
            rows[place] = (len(shards), *_add(writer, dataset, source, names[source]))
        shards.append(writer.close())
    finally:
        writer.abandon()
    np.save(folder / index_name(split), rows)
    _describe(folder, split, dataset, shards)


def _add(writer: _Writer, dataset: Dataset, index: int, name: str) -> tuple[int, int, int, int]:
    sample, files = dataset[index], origin(dataset, index)
    if files.image is not None and files.whole:
        suffix, image = files.image.suffix.lower(), files.image.read_bytes()
    else:
        suffix, image = ".png", png(sample.image)
    writer.samples += 1
    at = writer.add(f"{name}{suffix}", image)
    if dataset.kind == "classification":
        writer.add(f"{name}.cls", str(int(sample.target)).encode())
        return at, len(image), int(sample.target), 0
    label = index_png(sample.target, dataset.labels.palette)
    return at, len(image), writer.add(f"{name}.seg.png", label), len(label)


class _Writer:
    """One tar file, with nothing in it that depends on when and where it was written."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._stream = file.open("wb")
        self._tar = tarfile.TarFile(None, "w", self, tarfile.USTAR_FORMAT)  # type: ignore[arg-type]
        self.samples = 0

    @property
    def size(self) -> int:
        return int(self._tar.offset)

    def write(self, data: bytes) -> int:
        """For tarfile."""
        self._digest.update(data)
        return self._stream.write(data)

    def tell(self) -> int:
        """For tarfile."""
        return self._stream.tell()

    def add(self, name: str, content: bytes) -> int:
        """Where the content of the new member begins."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        at = self.size + HEADER
        self._tar.addfile(info, io.BytesIO(content))
        return at

    def close(self) -> Shard:
        self._tar.close()
        size = self._stream.tell()
        self._stream.close()
        return Shard(self._file.name, self.samples, size, self._digest.hexdigest())

    def abandon(self) -> None:
        """Close the file as it is."""
        self._stream.close()


def _describe(folder: Path, split: str, dataset: Dataset, shards: list[Shard]) -> None:
    file, labels = folder / META, dataset.labels
    content: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {"format": FORMAT, "splits": {}}
    content |= {
        "kind": dataset.kind,
        "names": labels.names,
        "palette": labels.palette,
        "ignore_index": labels.ignore_index,
    }
    content["splits"][split] = {"samples": len(dataset), "shards": [shard._asdict() for shard in shards]}
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


class Sharded(NamedTuple):
    """A split as its files describe it."""

    kind: str
    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    shards: tuple[Shard, ...]
    rows: npt.NDArray[np.int64]  # [N, 5], mapped


def read_description(folder: Path, split: str) -> Sharded:
    """What shards.json and the index say. Raises DataError if they do not fit together."""
    file = folder / META
    try:
        content = json.loads(file.read_bytes())
        if content["format"] != FORMAT:
            raise DataError(f"{file} has the format '{content['format']}'; this version reads '{FORMAT}'")
        if split not in content["splits"]:
            raise DataError(f"{file} has no split '{split}'; there are {', '.join(sorted(content['splits']))}")
        shards = tuple(Shard(**shard) for shard in content["splits"][split]["shards"])
        palette = tuple((int(red), int(green), int(blue)) for red, green, blue in content["palette"])
        described = Sharded(
            content["kind"], tuple(content["names"]), palette, content["ignore_index"], shards, _rows(folder, split)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise DataError(f"{file} and its index do not describe shards ({told}); write them again") from error
    _check(described, folder, split, content["splits"][split]["samples"])
    return described


def _rows(folder: Path, split: str) -> npt.NDArray[np.int64]:
    rows: npt.NDArray[np.int64] = np.load(folder / index_name(split), mmap_mode="r", allow_pickle=False)
    return rows


def _check(described: Sharded, folder: Path, split: str, samples: int) -> None:
    rows, shards, file = described.rows, described.shards, folder / index_name(split)
    if rows.shape != (samples, COLUMNS) or rows.dtype != np.int64 or sum(shard.samples for shard in shards) != samples:
        raise DataError(
            f"{file} has {rows.shape} entries of {rows.dtype} and {META} says {samples} samples: they are of different "
            "conversions; write them again"
        )
    names = [shard.file for shard in shards]
    outside = [name for name in names if name != Path(name).name or name in ("", ".", "..")]
    if outside:
        raise DataError(f"{folder / META} names the shard '{outside[0]}'; a shard lies beside it, without folders")


def first_rows(shards: tuple[Shard, ...]) -> Iterator[tuple[int, int]]:
    """Of each shard its first sample and the one after its last."""
    start = 0
    for shard in shards:
        yield start, start + shard.samples
        start += shard.samples
