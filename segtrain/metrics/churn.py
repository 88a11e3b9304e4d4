"""How much of what is mined changes while a model learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from segtrain.metrics.evaluation import Probe


class Churn:
    """Compares what is mined of the probes with what was mined of them at the evaluation before.

    Its state is a bit per pixel, so that a resumed run tells the same numbers.
    """

    def __init__(self) -> None:
        self._before: dict[str, Any] | None = None

    def __call__(self, probes: Sequence[Probe]) -> dict[str, float]:
        """1 - intersection / union of the two mined sets; nothing at the first evaluation or for other probes."""
        masks = [probe.mined > 0 for probe in probes if probe.mined is not None]
        if not masks:
            return {}
        now = np.concatenate([mask.ravel() for mask in masks])
        names = [f"{probe.id} {probe.target.shape}" for probe in probes]
        before, self._before = self._before, {"probes": names, "bits": torch.from_numpy(np.packbits(now))}
        if before is None or before["probes"] != names:
            return {}
        then = np.unpackbits(before["bits"].numpy(), count=len(now)).astype(bool)
        either = np.count_nonzero(now | then)
        return {"mining/churn": 1 - np.count_nonzero(now & then) / either} if either else {}

    def state_dict(self) -> dict[str, Any] | None:
        """The mined set of the last evaluation."""
        return self._before

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """The inverse of `state_dict`."""
        self._before = None if state is None else dict(state)
