"""Components of a user's own that go wrong, each in the way that its key `how` names."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segtrain.data.labels import LabelSpec
from segtrain.losses.pixel import cross_entropy
from segtrain.registry import CRITERIA, DATASETS, MODELS
from segtrain.task import Sample, Task

SAMPLES = {
    "fine": lambda image, target: Sample(image, target, "x"),
    "tuple": lambda image, target: (image, target),
    "float_image": lambda image, target: Sample(image / np.float32(255), target, "x"),
    "channels_first": lambda image, target: Sample(image.transpose(2, 0, 1), target, "x"),
    "float_labels": lambda image, target: Sample(image, target.astype(np.float32), "x"),
    "other_size": lambda image, target: Sample(image, target[1:], "x"),
}


@DATASETS.register("own")
class Own:
    kind = "segmentation"

    def __init__(self, *, how: str = "fine") -> None:
        self.how = how
        self.labels: Any = ["a", "b"] if how == "list" else LabelSpec(("a", "b"))
        if how != "nameless":
            self.path = lambda index: f"own/{index}"

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        rng = np.random.default_rng(index)
        image, target = rng.integers(0, 256, (16, 16, 3), np.uint8), rng.integers(0, 2, (16, 16), np.uint8)
        return SAMPLES.get(self.how, SAMPLES["fine"])(image, target)


class OwnModel(nn.Module):
    def __init__(self, channels: int, how: str) -> None:
        super().__init__()
        self.how = how
        stride = 2 if how == "half" else 1
        self.body = nn.Conv2d(3, channels + (how == "more"), 3, padding=1, stride=stride)

    def forward(self, image: Tensor) -> Any:
        logits = self.body(image.float() / 255)
        return (logits,) if self.how == "tuple" else logits


@MODELS.register("own")
def own_model(channels: int, *, how: str = "fine") -> nn.Module:
    return OwnModel(channels, how)


class OwnLoss(nn.Module):
    link = "softmax"

    def __init__(self, task: Task, how: str) -> None:
        super().__init__()
        self.how, self.ignore_index = how, task.ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Any:
        found = cross_entropy(logits, target, ignore_index=self.ignore_index)
        if self.how == "mean":
            return found.value.mean()
        return found._replace(value=found.value[:, 1:]) if self.how == "shorter" else found

    def weigh(self, target: Tensor) -> Tensor:
        return (target != self.ignore_index).double()


@CRITERIA.register("own")
def own_loss(task: Task, *, how: str = "fine") -> Any:
    return torch.nn.functional.cross_entropy if how == "torch" else OwnLoss(task, how)
