"""Whether two states of a training are the same, bit by bit."""

import hashlib
from pathlib import Path

import torch

from segtrain.shards import load


def digest(path):
    """SHA-256 over every tensor, number and name of the training state in a checkpoint, RNG included."""
    return digest_of(load(Path(path)))


def digest_of(state):
    """The same of a state in memory."""
    sha = hashlib.sha256()

    def add(value, where):
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                add(value[key], f"{where}.{key}")
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                add(item, f"{where}.{index}")
        else:
            content = value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode()
            sha.update(where.encode() + b"=" + content + b";")

    add(state, "state")
    return sha.hexdigest()
