"""What every observer is to the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from segtrain.metrics.evaluation import Evaluation


class SampleLoss(NamedTuple):
    """One sight of a training sample of a classifier."""

    id: str
    label: int
    prediction: int
    loss: float  # what samples are ranked by
    share: float  # 1: it counted in the loss, 0: others were harder


class Observer(Protocol):
    """Is told things after `step` finished optimizer steps, on the main rank only."""

    def on_step(self, step: int, scalars: Mapping[str, float]) -> None:
        """Numbers by tag ("train/loss"); called once per log interval."""

    def on_samples(self, step: int, samples: Sequence[SampleLoss]) -> None:
        """In classification, the samples of this rank that were trained on since the last log interval."""

    def on_evaluation(self, step: int, report: Evaluation) -> None:
        """The report of an evaluation of the weights after `step`."""

    def close(self) -> None:
        """The run is over, however it ended; may be called twice."""
