"""What is learned (Task), one example of it (Sample), and what one forward pass sees (Batch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segtrain.upsampling import Logits

Kind = Literal["segmentation", "classification"]
Link = Literal["softmax", "sigmoid"]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Task:
    """Everything about the labels that a model, a criterion, a metric or a picture needs."""

    kind: Kind
    classes: tuple[str, ...]
    palette: tuple[Color, ...]  # RGB, one per class
    ignore_index: int = 255  # -100 in classification

    @property
    def num_classes(self) -> int:
        """K, without what is ignored."""
        return len(self.classes)

    def channels(self, link: Link) -> int:
        """Output channels of the model: two classes under a sigmoid need one, everything else one per class."""
        return 1 if link == "sigmoid" and self.num_classes == 2 else self.num_classes


class Sample(NamedTuple):
    """One example as read from disk or generated; the transforms map samples to samples."""

    image: npt.NDArray[np.uint8]  # [H, W, 3], RGB
    target: npt.NDArray[Any]  # uint8 [H, W] train ids, or an int64 scalar array in classification
    id: str  # names the example in messages and logs: a path relative to the dataset's root


class Batch(NamedTuple):
    """Several samples of one size, as the model and the criterion take them."""

    image: Tensor  # uint8 [B, 3, H, W]
    target: Tensor  # uint8 [B, H, W], or int64 [B] in classification
    ids: tuple[str, ...]

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Batch:
        """The batch on `device`; copies do not block when the source is pinned."""
        image = self.image.to(device, non_blocking=True, memory_format=memory_format)
        return Batch(image, self.target.to(device, non_blocking=True), self.ids)

    def in_words(self) -> str:
        """Its size and its samples, for errors."""
        names = ", ".join(self.ids[:8]) + (", …" if len(self.ids) > 8 else "")
        return f"{'x'.join(map(str, self.image.shape))} ({names})"


class Output(NamedTuple):
    """What a model with an image head gives in training; in evaluation it gives its logits alone."""

    logits: Logits  # [B, C, H, W]
    image: Tensor  # [B, C]: scores of the classes that occur anywhere in the image


def logits_of(output: Logits | Output) -> Logits:
    """The logits of the pixels, or of the samples in classification."""
    return output.logits if isinstance(output, Output) else output


def predict(logits: Tensor) -> Tensor:
    """Class ids of the highest score, int64 [B, *]; one channel is a binary decision at logit 0."""
    # on a CPU argmax takes four times as long for the same
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.max(1).indices


def probabilities(logits: Tensor) -> Tensor:
    """Of each class, float32 [B, K, *]: the softmax, also where a criterion reads each class against the rest."""
    return two_channels(logits.float()).softmax(1)


def two_channels(logits: Tensor) -> Tensor:
    """The same decisions with a channel for each class: a sigmoid of x is a softmax over (0, x)."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
