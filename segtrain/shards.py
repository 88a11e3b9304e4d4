"""The sharded tensors of a checkpoint: a folder of safetensors files beside it, of which each rank writes its own.

`step-30.shards.pt` holds everything else, with the checksums of the files in `step-30.shards`. It is written last, so a
folder without it is what an interrupted save has left. torch.distributed.checkpoint reads the folder on any number of
ranks; safetensors, unlike torch's own format there, has nothing that is unpickled.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from segtrain import checkpoint
from segtrain.distributed import is_main, of_all_ranks, rank
from segtrain.errors import CheckpointError

SUFFIX = ".shards"  # of the folder; with .pt after it, of the file that goes with it


def folder_of(file: Path) -> Path | None:
    """The folder that belongs to a numbered checkpoint by its name; None if it is whole."""
    return file.with_suffix("") if file.name.endswith(f"{SUFFIX}.pt") else None


def write(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """What is left of `state` once every rank has written its part of the sharded tensors to `folder`.

    Every rank calls it. `folder` is there only when all parts have reached the disk. Raises DiskFullError.
    """
    parts: dict[str, Any] = {}

    def set_aside(path: str, value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        parts[path] = value
        return None

    rest = _changed(state, set_aside)
    unfinished = folder.with_name(f"{folder.name}.tmp")
    try:
        writer = HuggingFaceStorageWriter(str(unfinished), save_distributed=True)
        state_dict_saver.save(parts, storage_writer=writer)
    except CheckpointException as error:  # on every rank, whichever failed
        if is_main():
            shutil.rmtree(unfinished, ignore_errors=True)
        causes = [cause for cause, _ in error.failures.values()]
        if any(isinstance(cause, OSError) and cause.errno in checkpoint.NO_SPACE for cause in causes):
            raise checkpoint.disk_full(folder, checkpoint.size_of(parts)) from error
        raise
    mine = {file.name: _sha256(file) for file in unfinished.glob(f"shard-{rank() + 1:05d}-*")}
    files = {name: digest for part in of_all_ranks(mine) for name, digest in part.items()}
    if is_main():
        checkpoint.sync_directory(unfinished)
        if folder.exists():  # of a run that stepped back; what it goes on from is another
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
        checkpoint.sync_directory(folder.parent)
    return {**rest, "shards": {"folder": folder.name, "files": files}}


def verify(file: Path, state: Mapping[str, Any]) -> None:
    """Raise CheckpointError, with the name of the shard, unless all of `state` from `file` are what `write` left."""
    if "shards" not in state:
        return
    folder, files = _listed(file, state)
    if extra := sorted({path.name for path in folder.glob("*")} - files.keys()):
        raise CheckpointError(f"{folder / extra[0]}: not a shard of {file}; move it out of the folder")
    for name, expected in files.items():
        try:
            found = _sha256(folder / name)
        except OSError as error:
            raise CheckpointError(
                f"{folder / name}: cannot be read, but {file} needs it: {error.strerror}; copy it again"
            ) from error
        if found != expected:
            raise CheckpointError(
                f"{folder / name}: damaged, its content does not match its checksum in {file}; use another checkpoint "
                "or copy it again"
            )


def read(file: Path, state: dict[str, Any], like: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """`state` from `file` with its sharded tensors; unchanged if it has none.

    With `like`, parameters by name, every rank calls it and gets its part of what belongs to a sharded one; without, a
    process reads all for itself. Whatever is not sharded now is on the CPU, in full. Raises CheckpointError.
    """
    if "shards" not in state:
        return state
    reader = HuggingFaceStorageReader(str(_listed(file, state)[0]))
    try:
        parts = {
            path: _room(about.size, about.properties.dtype, _parameter(path, like or {}))
            for path, about in reader.read_metadata().state_dict_metadata.items()
            if isinstance(about, TensorStorageMetadata)
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is meant to be enough
            state_dict_loader.load(parts, storage_reader=reader, no_dist=like is None)
    except Exception as error:  # whatever files that are not shards make the readers raise
        raise CheckpointError(f"{file}: its shards cannot be read ({type(error).__name__}: {error})") from error
    rest = {key: value for key, value in state.items() if key != "shards"}
    whole: dict[str, Any] = _changed(rest, lambda path, value: parts.get(path, value))
    return whole


def load_rest(file: Path) -> dict[str, Any]:
    """The state in `file` without the tensors that lie in shards, which are whole too. Raises CheckpointError."""
    state = checkpoint.load(file)
    verify(file, state)
    return state


def load(file: Path) -> dict[str, Any]:
    """The state in `file`, on the CPU and in full, whether it is sharded or not. Raises CheckpointError."""
    return read(file, load_rest(file))


def are_in(state: Any) -> bool:
    """Whether `state` has tensors that are sharded."""
    found: list[bool] = []
    _changed(state, lambda _, value: found.append(isinstance(value, DTensor)))
    return any(found)


def _listed(file: Path, state: Mapping[str, Any]) -> tuple[Path, dict[str, str]]:
    """The folder beside `file` and the checksums of what is in it, by name."""
    match state["shards"]:
        case {"folder": str(folder), "files": dict(files)}:
            return file.parent / Path(folder).name, {Path(str(name)).name: digest for name, digest in files.items()}
    raise CheckpointError(f"{file}: does not say which shards belong to it")


def _changed(state: Any, change: Callable[[str, Any], Any], where: str = "") -> Any:
    """`state` with each leaf replaced by `change(its path, itself)`."""
    if isinstance(state, Mapping):
        return {key: _changed(value, change, f"{where}/{key}") for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(_changed(value, change, f"{where}/{index}") for index, value in enumerate(state))
    return change(where, state)


def _parameter(path: str, parameters: Mapping[str, Tensor]) -> Tensor | None:
    """The one that the tensor at `path` belongs to: its value, its average, its momentum."""
    return next((parameters[name] for name in path.split("/") if name in parameters), None)


def _room(size: torch.Size, dtype: torch.dtype, like: Tensor | None) -> Tensor:
    if isinstance(like, DTensor) and like.shape == size:
        return torch.empty_like(like, dtype=dtype, requires_grad=False)
    return torch.empty(size, dtype=dtype)


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return checkpoint.sha256(content, os.fstat(content.fileno()).st_size)
