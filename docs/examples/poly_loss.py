"""An own pixel loss: poly-1 cross entropy (Leng et al., "PolyLoss", ICLR 2022), CE + ε·(1 − probability of the target)."""

import torch
from torch import Tensor

from segtrain.losses.maps import LossMap
from segtrain.losses.pixel import cross_entropy_map
from segtrain.registry import PIXEL_LOSSES
from segtrain.task import Link, Task


@PIXEL_LOSSES.register("poly1_ce")
class Poly1CrossEntropy:
    """Poly-1 cross entropy; `epsilon` is the weight of the first polynomial term."""

    link: Link = "softmax"

    def __init__(self, task: Task, *, epsilon: float = 1.0) -> None:
        self.ignore_index = task.ignore_index
        self.epsilon = epsilon

    def __call__(self, logits: Tensor, target: Tensor) -> LossMap:
        """One value per pixel: logits [B, C, *], target [B, *]."""
        losses = cross_entropy_map(logits, target, ignore_index=self.ignore_index)
        probability = torch.exp(-losses.value)
        return losses._replace(value=losses.value + self.epsilon * torch.where(losses.valid, 1 - probability, 0.0))
