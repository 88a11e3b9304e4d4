"""A model small enough to train in a test; it comes in as a user's own would, by --import tiny_components."""

import torch
from torch import Tensor, nn

from segtrain.models.common import HALF, ImageModel
from segtrain.registry import MODELS
from segtrain.task import Output


class TinyModel(nn.Module):
    def __init__(self, channels: int, width: int, dropout: float, batch_norm: bool, image_head: bool) -> None:
        super().__init__()
        self.has_image_head = image_head
        self.image_head = nn.Linear(width, channels) if image_head else None
        norm = nn.BatchNorm2d(width) if batch_norm else nn.GroupNorm(2, width)
        self.encoder = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), norm, nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor | Output:
        features = self.encoder(image.to(next(self.parameters()).dtype) / 127.5 - 1)
        logits = self.head(features)
        if self.image_head is None or not self.training:
            return logits
        return Output(logits, self.image_head(features.mean((2, 3))))

    def in_encoder(self, name: str) -> bool:
        return name.startswith("encoder.")


@MODELS.register("tiny")
def tiny(
    channels: int,
    *,
    width: int = 4,
    dropout: float = 0.0,
    double: bool = False,
    batch_norm: bool = False,
    image_head: bool = False,
) -> TinyModel:
    return TinyModel(channels, width, dropout, batch_norm, image_head).to(torch.float64 if double else torch.float32)


@MODELS.register("tiny_upsampled")
def tiny_upsampled(channels: int, *, align_corners: bool = True, deferred: bool = True) -> ImageModel:
    """A model in double precision that ends in a bilinear upsampling, which it can leave to others."""
    last = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=align_corners)
    net = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, channels, 3, padding=1))
    if not deferred:
        net.append(last)
    options = {"mean": HALF, "std": HALF, "head": "2", "multiple": 4}
    return ImageModel(net, **options, upsampling=last if deferred else None).double()


class TinyClassifier(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, channels)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.encoder(image.float() / 127.5 - 1).mean((2, 3)))

    def in_encoder(self, name: str) -> bool:
        return name.startswith("encoder.")


@MODELS.register("tiny_classifier")
def tiny_classifier(channels: int, *, width: int = 8) -> TinyClassifier:
    """One convolution and the mean of its features."""
    return TinyClassifier(channels, width)
