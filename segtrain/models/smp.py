"""Encoder-decoders of segmentation-models-pytorch: every architecture with every encoder that it offers."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import segmentation_models_pytorch as smp
import timm
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.encoders import encoders as _encoders
from segmentation_models_pytorch.encoders import get_preprocessing_params
from torch import nn

from segtrain.errors import did_you_mean
from segtrain.models.common import HALF, IMAGENET_MEAN, IMAGENET_STD, ImageModel, Pretrained, fetching, load_file
from segtrain.registry import MODELS, Names

ARCHITECTURES: dict[str, Any] = dict(smp.MODEL_ARCHITECTURES_MAPPING)

# set by this factory, or such that the logits would be something else than logits at the size of the image
_NOT_OPTIONS = {
    *("self", "kwargs", "encoder_name", "encoder_weights", "in_channels", "classes"),
    *("activation", "aux_params", "upsampling"),
}


@dataclass(frozen=True)
class ImageHead:
    """A second head on the encoder's last features: pooled, dropped out by chance, one score per class."""

    pooling: Literal["avg", "max"] = "avg"
    dropout: float = 0.2


@MODELS.register("smp")
def encoder_decoder(
    channels: int,
    *,
    arch: Annotated[str, Names(lambda: ARCHITECTURES)] = "unet",
    encoder: Annotated[str, Names(lambda: encoder_names())] = "resnet34",
    encoder_weights: Pretrained = "imagenet",
    decoder: dict[str, Any] | None = None,
    encoder_options: dict[str, Any] | None = None,
    aux_params: ImageHead | None = None,
    fuse_upsampling: bool = True,
) -> ImageModel:
    """An encoder-decoder of segmentation-models-pytorch.

    `arch` is unet, unetplusplus, manet, linknet, fpn, pspnet, deeplabv3, deeplabv3plus, pan, upernet, segformer or dpt;
    `encoder` one of the library's or, with the prefix `tu-`, one of timm. `encoder_weights` is a name of the library
    (mostly imagenet), the path of a file, or null. `decoder` holds further arguments of the architecture,
    `encoder_options` those of a timm encoder (img_size for a transformer that is bound to one size). `aux_params` adds
    a head that says which classes occur in the image, for the criterion image_presence; it is not used in evaluation.
    `fuse_upsampling`: where the head ends in one (fpn, pspnet, deeplabv3, deeplabv3plus, pan, upernet, segformer), the
    losses make full resolution by bands of rows, as far as they can, and never hold the logits in full.
    """
    kind = ARCHITECTURES.get(arch)
    if kind is None:
        raise ValueError(f"unknown arch '{arch}'{did_you_mean(arch, ARCHITECTURES, limit=20)}")
    _check_encoder(arch, encoder)
    _check_decoder(arch, kind, decoder or {})
    named = _named_weights(encoder, encoder_weights)
    arguments = {"encoder_name": encoder, "encoder_weights": named, "classes": channels, **(decoder or {})}
    if aux_params is not None:
        _check_image_head(aux_params)
        arguments["aux_params"] = {"classes": channels, "pooling": aux_params.pooling, "dropout": aux_params.dropout}
    options = encoder_options or {}
    if named is None:
        net = _built(kind, arguments, options)
    else:
        with fetching(f"weights '{encoder_weights}' of encoder '{encoder}'", "encoder_weights"):
            net = _built(kind, arguments, options)
    if named is None and encoder_weights is not None:
        load_file(net.encoder, encoder_weights, "encoder_weights")
    mean, std = _statistics(encoder, encoder_weights, named)
    multiple, smallest = _sizes(arch, encoder, net.encoder.output_stride)
    return ImageModel(
        net,
        mean=mean,
        std=std,
        encoder="encoder",
        multiple=multiple,
        smallest=smallest,
        upsampling=_last_upsampling(net) if fuse_upsampling else None,
        has_image_head=aux_params is not None,
    )


def encoder_names() -> list[str]:
    """Every encoder that a config may name."""
    return [*_encoders, *(f"tu-{name}" for name in timm.list_models())]


def _built(kind: Any, arguments: dict[str, Any], options: dict[str, Any]) -> Any:
    """The network; a transformer takes images of any size if it can."""
    encoder = arguments["encoder_name"]
    dynamic = {"dynamic_img_size": True} if encoder.startswith("tu-") else {}
    try:
        try:
            return kind(**arguments, **{**dynamic, **options})
        except TypeError as error:
            if "dynamic_img_size" not in str(error):
                raise
            return kind(**arguments, **options)
    except (ValueError, RuntimeError, TypeError, LookupError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{kind.__name__} cannot be built with encoder '{encoder}': {reason}") from error


def _last_upsampling(net: Any) -> nn.Upsample | None:
    """The upsampling that the head ends in, taken out of it; None if there is none."""
    head = net.segmentation_head
    if not isinstance(head, SegmentationHead) or not isinstance(head[1], nn.Upsample):
        return None
    upsampling, head[1] = head[1], nn.Identity()
    return upsampling


def _sizes(arch: str, encoder: str, stride: int) -> tuple[int, int]:
    """What the sides of an image must be a multiple of, and how long they must be."""
    if arch == "dpt":  # its decoder works at 1/4 to 1/32, whatever the patches are
        if 32 % stride:
            raise ValueError(
                f"encoder '{encoder}' has patches of {stride} pixels, which arch 'dpt' cannot use; "
                "it needs patches of 8, 16 or 32, such as tu-vit_base_patch16_224"
            )
        return 32, 32
    # the pyramid of PAN halves the encoder's features three times
    return stride, 8 * stride if arch == "pan" else stride


def _check_encoder(arch: str, encoder: str) -> None:
    if arch == "dpt" and not encoder.startswith("tu-"):
        raise ValueError(f"encoder '{encoder}' does not go with arch 'dpt'; it needs a vision transformer, tu-vit_…")
    known = timm.is_model(encoder[3:]) if encoder.startswith("tu-") else encoder in _encoders
    if not known:
        raise ValueError(f"unknown encoder '{encoder}'{did_you_mean(encoder, encoder_names())}")


def _check_image_head(head: ImageHead) -> None:
    if not 0 <= head.dropout < 1:
        raise ValueError(f"aux_params: dropout {head.dropout}; expected a share of the features in [0, 1)")


def _check_decoder(arch: str, kind: Any, options: dict[str, Any]) -> None:
    allowed = set(inspect.signature(kind).parameters) - _NOT_OPTIONS
    for key in options:
        if key not in allowed:
            raise ValueError(f"decoder: arch '{arch}' has no option '{key}'{did_you_mean(key, allowed, limit=20)}")


def _named_weights(encoder: str, weights: str | None) -> Any:
    """What the library calls these weights: True for timm's own; None for random ones and for those in a file."""
    if weights is None or os.path.splitext(weights)[1] in (".pth", ".pt", ".safetensors", ".bin"):
        return None
    if encoder.startswith("tu-"):
        allowed = ["imagenet"] if timm.models.is_model_pretrained(encoder[3:]) else []
    else:
        allowed = list(_encoders[encoder]["pretrained_settings"])
    if weights not in allowed:
        raise ValueError(
            f"unknown encoder_weights '{weights}' for encoder '{encoder}'; "
            f"allowed: {', '.join([*allowed, 'null'])}, or a file (.safetensors, .pth, .pt)"
        )
    return True if encoder.startswith("tu-") else weights


def _statistics(encoder: str, weights: str | None, named: Any) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation that the encoder's weights were trained with."""
    if encoder.startswith("tu-"):
        settings = timm.models.get_pretrained_cfg(encoder[3:], allow_unregistered=True)
        return (settings.mean, settings.std) if settings else (IMAGENET_MEAN, IMAGENET_STD)
    if named is not None:  # the description came with the weights
        settings = get_preprocessing_params(encoder, named)
        return settings["mean"], settings["std"]
    inception = encoder in ("inceptionv4", "inceptionresnetv2", "xception") or "tf_efficientnet_lite" in encoder
    return (HALF, HALF) if inception and weights is not None else (IMAGENET_MEAN, IMAGENET_STD)
