"""An own pixel loss: poly-1 cross entropy, CE + ε·(1 − p of the target) (Leng et al., PolyLoss, ICLR 2022)."""

import torch
from torch import Tensor, nn

from segtrain.losses.maps import LossMap
from segtrain.losses.pixel import cross_entropy
from segtrain.registry import PIXEL_LOSSES
from segtrain.task import Link, Task


@PIXEL_LOSSES.register("poly1_ce")
class Poly1CrossEntropy(nn.Module):
    """Poly-1 cross entropy; `epsilon` is the weight of its first polynomial term."""

    link: Link = "softmax"

    def __init__(self, task: Task, *, epsilon: float = 1.0) -> None:
        super().__init__()
        self.ignore_index = task.ignore_index
        self.epsilon = epsilon

    def forward(self, logits: Tensor, target: Tensor) -> LossMap:
        """One value per pixel: logits [B, C, *], target [B, *]."""
        plain = cross_entropy(logits, target, ignore_index=self.ignore_index)
        doubt = torch.where(plain.valid, 1 - torch.exp(-plain.value), 0.0)
        return plain._replace(value=plain.value + self.epsilon * doubt)

    def weigh(self, target: Tensor) -> Tensor:
        """What each pixel counts for, known without the logits."""
        return (target != self.ignore_index).double()
