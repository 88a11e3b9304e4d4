"""An own mining rule: of each batch the pixels that are at least as hard as its median pixel."""

import torch
from torch import Tensor

from segtrain.losses import components
from segtrain.losses.criterion import ALONE, Criterion
from segtrain.losses.maps import LossMap, Selection
from segtrain.losses.mining import selected
from segtrain.losses.terms import PixelTerms
from segtrain.registry import CRITERIA
from segtrain.task import Task


class AboveMedian:
    """Keeps the harder half of what this rank sees."""

    def __call__(
        self, losses: LossMap, step: int, target: Tensor, num_classes: int, *, over_ranks: bool = True
    ) -> Selection:
        """Which entries of the map are kept, and how much of each."""
        median = torch.where(losses.valid, losses.hardness, torch.nan).nanmedian()
        kept = losses.valid & (losses.hardness >= median)
        return selected(losses, kept.double(), median[None])


@CRITERIA.register("above_median")
def above_median(task: Task, *, label_smoothing: float = 0.0) -> Criterion:
    """Cross entropy of the pixels that are at least as hard as the median one."""
    loss = components.cross_entropy(task, label_smoothing=label_smoothing)
    return Criterion(task, [PixelTerms([loss], [ALONE], AboveMedian())])
