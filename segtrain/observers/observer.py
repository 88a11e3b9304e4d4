"""What every observer is to the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from segtrain.metrics import Evaluation


class Observer(Protocol):
    """Is told things after `step` finished optimizer steps, on the main rank only."""

    def on_step(self, step: int, scalars: Mapping[str, float]) -> None:
        """Numbers by tag ("train/loss"); called once per log interval."""

    def on_evaluation(self, step: int, report: Evaluation) -> None:
        """The report of an evaluation of the weights after `step`."""

    def close(self) -> None:
        """The run is over, however it ended; may be called twice."""
