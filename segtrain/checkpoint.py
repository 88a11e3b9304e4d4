"""Checkpoints that are either whole or refused.

A checkpoint is what `torch.save` writes, an uncompressed zip archive, with one line as the archive's comment: the
format version and the SHA-256 of everything before it. `torch.load` and every zip tool read it as any other archive.
It holds plain values only (tensors, numbers, strings, lists, tuples and dicts of them): loading never runs code.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segtrain.errors import CheckpointError, UserError

FORMAT = 1
_SEALED_BY = b"segtrain checkpoint, format %04d, sha256 "
_SEAL = re.compile(rb"segtrain checkpoint, format (\d{4}), sha256 ([0-9a-f]{64})")
_SEAL_SIZE = len(_SEALED_BY % FORMAT) + 64
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a full quota, a file as large as one may be
_WEIGHT_KEYS = ("ema", "model", "state_dict", "model_state_dict")


class DiskFullError(UserError):
    """There is no room for a checkpoint. The previous one is untouched."""

    exit_code = 74


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write `state` so that `path` holds, at every instant and after a crash, the previous content or the new one.

    Tensors are stored as CPU tensors. Raises ValueError with the key path for a value that could be written but not be
    read back, and DiskFullError.
    """
    path = Path(path)
    plain = _plain(state, "state")
    with _replacing(path, size_of(plain)) as temporary, open(temporary, "w+b") as file:
        torch.save(plain, file)  # not the path: torch would not tell a full disk from any other failure
        file.seek(-2, os.SEEK_END)  # the length of the archive's comment, so far 0
        file.write(struct.pack("<H", _SEAL_SIZE) + _SEALED_BY % FORMAT)
        size = file.tell()
        file.seek(0)
        digest = sha256(file, size)
        file.seek(size)
        file.write(digest.encode())
        file.flush()
        os.fsync(file.fileno())


def load(path: str | Path) -> dict[str, Any]:
    """The state in `path`, on the CPU. Raises CheckpointError unless the file is, bit by bit, what `save` wrote."""
    path = Path(path)
    with _opened(path) as file:
        _verify(path, file)
        return _unpickled(path, file)


def is_valid(path: str | Path) -> bool:
    """Whether `load` would take the file, as far as its checksum tells."""
    path = Path(path)
    try:
        with _opened(path) as file:
            _verify(path, file)
    except CheckpointError:
        return False
    return True


def link(source: str | Path, name: str | Path) -> None:
    """Let `name` be the content of `source` too, atomically, without a second copy where the file system can."""
    with _replacing(Path(name), os.path.getsize(source)) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, temporary)


def require_space(directory: str | Path, needed: int) -> None:
    """Raise DiskFullError unless `needed` bytes are free in `directory`."""
    if shutil.disk_usage(directory).free < needed:
        raise disk_full(Path(directory), needed)


def size_of(state: Any) -> int:
    """About how many bytes `save` would write: those of the tensors."""
    if isinstance(state, Tensor):
        return state.nbytes
    values = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(size_of(value) for value in values)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Name → tensor of a file of weights: safetensors, a state dict of torch, or a checkpoint of any trainer.

    Only tensors are ever read from it. Raises CheckpointError.
    """
    path = Path(path)
    with _opened(path) as file:
        if path.suffix == ".safetensors":
            try:
                return dict(load_file(path))
            except SafetensorError as error:
                raise CheckpointError(f"{path}: {_what_it_is(file)} ({error})") from error
        if _seal(file):
            _verify(path, file)
        state: Any = _unpickled(path, file)
        if "shards" in state:
            raise CheckpointError(
                f"{path}: its weights lie in shards beside it; give the best.pt of the run, which is whole"
            )
    state = next((state[key] for key in _WEIGHT_KEYS if isinstance(state.get(key), Mapping)), state)
    weights = {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    if not weights:
        raise CheckpointError(f"{path}: holds no weights; its keys are {', '.join(map(str, list(state)[:8]))}")
    return weights


def _plain(value: Any, where: str) -> Any:
    """A copy of `value` that loads again under weights_only; tensors are not copied but detached and on the CPU."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is Tensor and value.layout == torch.strided:
        return value.detach().cpu()
    if kind in (list, tuple):
        return kind(_plain(item, f"{where}[{index}]") for index, item in enumerate(value))
    if kind in (dict, OrderedDict):
        for key in value:
            if type(key) not in (str, int):
                raise ValueError(f"{where} has the key {key!r}, a {type(key).__name__}; only str and int can be keys")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise ValueError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}; a checkpoint holds only tensors, None, bool, int, float, "
        "str, and lists, tuples and dicts of them; convert it first"
    )


@contextlib.contextmanager
def _replacing(path: Path, size: int) -> Iterator[Path]:
    """A temporary file that takes the place of `path` at the end, or is removed if anything goes wrong."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
        sync_directory(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # torch's writer may end in an error of its own that hides the first one
        first = error if isinstance(error, OSError) else error.__context__
        if isinstance(first, OSError) and first.errno in NO_SPACE:
            raise disk_full(path, size) from error
        raise


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def _seal(file: BinaryIO) -> re.Match[bytes] | None:
    """The last line of what `save` wrote: format version, checksum."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _SEAL_SIZE))
    return _SEAL.fullmatch(file.read())


def _verify(path: Path, file: BinaryIO) -> None:
    """Raise CheckpointError unless `file` is, bit by bit, what `save` wrote."""
    seal, size = _seal(file), file.seek(0, os.SEEK_END)
    if seal is None:
        raise CheckpointError(f"{path}: {_what_it_is(file)}")
    if int(seal[1]) > FORMAT:
        raise CheckpointError(
            f"{path}: written by a newer segtrain (checkpoint format {int(seal[1])}, this one reads up to {FORMAT}); "
            "update segtrain"
        )
    file.seek(0)
    if sha256(file, size - 64) != seal[2].decode():
        raise CheckpointError(
            f"{path}: damaged, its content does not match its checksum; use another checkpoint or copy it again"
        )


def _unpickled(path: Path, file: BinaryIO) -> dict[str, Any]:
    size = file.seek(0, os.SEEK_END)
    try:
        if zipfile.is_zipfile(file):
            members = zipfile.ZipFile(file).infolist()
            if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
                raise CheckpointError(f"{path}: a compressed archive; weights are never compressed, so it is refused")
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to load unsafely
            state = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes the readers raise
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden is None:
            raise CheckpointError(f"{path}: {_what_it_is(file)}") from error
        raise CheckpointError(
            f"{path}: refused, it asks for {forbidden[1]}; only tensors and plain values can be loaded safely"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a dict")
    return state


def _what_it_is(file: BinaryIO) -> str:
    file.seek(0)
    head = file.read(512)
    if not head:
        return "empty (0 bytes); the disk was full or a copy was interrupted"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; fetch it with: git lfs pull"
    if head.lstrip().startswith(b"<"):
        return "an HTML or XML page, not a checkpoint; the download went wrong"
    if head.startswith(b"PK"):
        return "incomplete, or not a checkpoint of segtrain"
    return "neither a checkpoint nor a file of weights"


def sha256(file: BinaryIO, size: int) -> str:
    """The checksum of the next `size` bytes, or fewer where the file ends."""
    digest = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(size, 1 << 20))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def sync_directory(directory: Path) -> None:
    """A rename is durable only when its directory has reached the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_full(path: Path, needed: int) -> DiskFullError:
    """What to raise where `needed` bytes for `path` found no room."""
    folder = path if path.is_dir() else path.parent
    free = shutil.disk_usage(folder).free
    return DiskFullError(
        f"No space left on device: {path} needs about {needed:,} bytes, {free:,} are free in {folder}; "
        "the previous checkpoint is untouched. Free some space, then go on with --resume auto"
    )
