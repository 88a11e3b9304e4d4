"""A run that begins with the weights of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import torch

from segtrain.checkpoint import read_weights
from segtrain.errors import ConfigError
from segtrain.learner import Learner
from segtrain.parallel import load_full


def load_weights(learner: Learner, path: Path, skip: Sequence[str] = ()) -> None:
    """Start from the weights of a checkpoint, and from nothing else of it; `skip` names (`net.head.*`) start anew.

    Raises ConfigError naming what is missing, left over or of another shape.
    """
    weights, state = read_weights(path), learner.model.state_dict()
    skipped = {name for name in state if any(fnmatch(name, pattern) for pattern in skip)}
    if skip and not skipped:
        raise ConfigError(
            f"--init-skip {' '.join(skip)}: matches no parameter; they are called like {next(iter(state))}"
        )
    wrong = [
        f"{name} is {_shape(weights, name)} in the file and {_shape(state, name)} in the model"
        for name in (weights.keys() | state.keys()) - skipped
        if _shape(weights, name) != _shape(state, name)
    ]
    if wrong:
        raise ConfigError(
            f"--init {path}: {len(wrong)} of {len(state)} tensors do not fit: {'; '.join(sorted(wrong)[:4])}. "
            "Use weights of the same model, or start those parts anew with --init-skip 'net.segmentation_head.*'"
        )
    load_full(learner.model, {**state, **{name: weights[name] for name in state.keys() - skipped}})
    if learner.ema is not None:
        learner.ema.set(learner.model)  # type: ignore[no-untyped-call]


def _shape(state: Mapping[str, torch.Tensor], name: str) -> str:
    return str(tuple(state[name].shape)) if name in state else "absent"
