"""Classifiers of torchvision and timm with a new head."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import timm
import torch
import torchvision
from torch import nn

from segtrain.errors import did_you_mean
from segtrain.models.common import HALF, IMAGENET_MEAN, IMAGENET_STD, ImageModel, Pretrained, fetching, load_file
from segtrain.registry import MODELS, Names

TORCHVISION = torchvision.models.list_models(module=torchvision.models)


@MODELS.register("torchvision")
def torchvision_classifier(
    channels: int,
    *,
    arch: Annotated[str, Names(lambda: TORCHVISION)] = "resnet18",
    weights: Pretrained = "imagenet",
) -> ImageModel:
    """A classifier of torchvision. `weights`: imagenet, the path of a file, or null; the head is always new."""
    if arch not in TORCHVISION:
        raise ValueError(f"unknown arch '{arch}'{did_you_mean(arch, TORCHVISION)}")
    options: dict[str, bool] = {}
    if arch in ("googlenet", "inception_v3"):
        # auxiliary heads would return a second output; the normalisation is ours
        options = {"aux_logits": False, "init_weights": weights is None, "transform_input": False}
    net = torchvision.models.get_model(arch, weights=None, num_classes=channels, **options)
    head = _last_layer(net)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if weights == "imagenet":
        published = torchvision.models.get_model_weights(arch).DEFAULT
        settings = published.transforms()
        mean, std = settings.mean, settings.std
        with fetching(f"weights of torchvision's {arch}", "weights", host=urlsplit(published.url).hostname):
            path = _downloaded(published.url)
        load_file(net, path, "weights", new=head)
    elif weights is not None:
        load_file(net, weights, "weights", new=head)
    if weights is not None and arch in ("googlenet", "inception_v3"):
        mean, std = HALF, HALF  # what these were trained with, though their published description says otherwise
    return ImageModel(net, mean=mean, std=std, head=head)


@MODELS.register("timm")
def timm_classifier(
    channels: int,
    *,
    arch: Annotated[str, Names(timm.list_models)] = "resnet18",
    weights: Pretrained = "imagenet",
    options: dict[str, Any] | None = None,
) -> ImageModel:
    """A classifier of timm. `weights`: imagenet (those of the name's tag), a file, or null; the head is always new.

    `options` are further arguments of the model, such as drop_path_rate or img_size.
    """
    if not timm.is_model(arch):
        raise ValueError(f"unknown arch '{arch}'{did_you_mean(arch, timm.list_models())}")
    if weights == "imagenet":
        with fetching(f"weights of timm's {arch}", "weights"):
            net = _timm(arch, channels, True, options)
    else:
        net = _timm(arch, channels, False, options)
    classifier = net.get_classifier()
    head = next(name for name, module in net.named_modules() if module is classifier)
    if weights is not None and weights != "imagenet":
        load_file(net, weights, "weights", new=head)
    return ImageModel(net, mean=net.pretrained_cfg["mean"], std=net.pretrained_cfg["std"], head=head)


def _timm(arch: str, channels: int, pretrained: bool, options: dict[str, Any] | None) -> Any:
    try:
        return timm.create_model(arch, pretrained=pretrained, num_classes=channels, **(options or {}))
    except OSError:
        raise
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"timm cannot build '{arch}': {error}") from error


def _last_layer(net: nn.Module) -> str:
    layers: list[str] = [name for name, module in net.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    return layers[-1]


def _downloaded(url: str) -> Path:
    """The file in torch's cache, fetched if it is not there and checked against the hash in its name."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / os.path.basename(urlsplit(url).path)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), path.stem.rsplit("-", 1)[-1], progress=True)
    return path
