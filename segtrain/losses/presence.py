"""Which classes occur in an image: the loss of the image head that a model may have beside its label map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.losses.maps import Reduced
from segtrain.losses.targets import full_precision, named_entries, read_labels
from segtrain.registry import REGION_LOSSES
from segtrain.task import Task


class ImagePresence(nn.Module):
    """The loss of an image head for one task: (scores, target) → Reduced."""

    name = "image_presence"

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._ignore_index = task.ignore_index

    def forward(self, scores: Tensor, target: Tensor) -> Reduced:
        return presence(scores, target, ignore_index=self._ignore_index)

    def mass(self, target: Tensor) -> Tensor:
        """Images with something valid, float64."""
        return named_entries(target, self._ignore_index).flatten(1).any(1).sum().double()


def presence(scores: Tensor, target: Tensor, *, ignore_index: int = 255) -> Reduced:
    """Binary cross entropy of "class c occurs in this image", averaged over classes; its mean is over images.

    `scores` [B, C] are logits (C = 1: whether class 1 of two occurs), `target` [B, H, W] the labels of the pixels. An
    image with nothing but ignored pixels says nothing about its classes and is left out; a label out of range is NaN.

    Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018 (the semantic encoding loss).
    """
    x = full_precision(scores)
    channels, classes = x.shape[1], max(x.shape[1], 2)
    target = target.flatten(1)
    labels = read_labels(x[..., None].expand(-1, -1, target.shape[1]), target, classes, None, ignore_index)
    bins = torch.where(labels.valid, labels.safe, classes)  # what is ignored falls into one bin more
    occurs = torch.zeros(len(x), classes + 1, dtype=x.dtype, device=x.device).scatter_(1, bins, 1.0)
    wanted = occurs[:, 1:2] if channels == 1 else occurs[:, :classes]
    labelled = labels.valid.any(1)
    each = F.binary_cross_entropy_with_logits(x, wanted, reduction="none").mean(1) * labels.spoiled.amax(1)
    return Reduced(torch.where(labelled, each, 0.0).sum(), labelled.sum().double())


@REGION_LOSSES.register("image_presence")
def image_presence(task: Task) -> ImagePresence:
    """Which classes occur in the image, read from the image head that model smp has with `aux_params`."""
    if task.kind == "classification":
        raise ValueError("image_presence in classification, where the label is of the image; expected segmentation")
    return ImagePresence(task)
