"""The global random generators: seeded, different on each rank from some point on, saved and restored."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from segtrain.distributed import rank
from segtrain.errors import CheckpointError


def seed_everything(seed: int) -> None:
    """Seed the global generators; ranks share the seed, so that their weights start equal."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - third-party code still draws from the global generator
    torch.manual_seed(seed)


def own_random_numbers(seed: int) -> None:
    """From here on ranks draw differently (dropout), rank 0 as one process would."""
    if rank() > 0:
        seed_everything(int(np.random.SeedSequence([seed, rank()]).generate_state(1)[0]))


def rng_state() -> dict[str, Any]:
    """The state of every global random generator, in plain values."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],  # of this rank's device
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), gauss_next],
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Set every global random generator to a state from `rng_state`; CheckpointError if it is none."""
    try:
        torch.set_rng_state(state["torch"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"][0])
        keys, position, has_gauss, gauss = state["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
        version, internal, gauss_next = state["python"]
        random.setstate((version, tuple(internal), gauss_next))
    except Exception as error:  # the generators raise anything at numbers that are not theirs
        raise CheckpointError(
            f"the random state of the checkpoint cannot be restored ({type(error).__name__}: {error}), so the run "
            "would not go on as it was; start a new run from these weights with --init"
        ) from error
