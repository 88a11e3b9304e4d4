"""What all models share: normalisation inside, padding to what the network needs, weights from a file."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import huggingface_hub.constants
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.checkpoint import read_weights
from segtrain.errors import CheckpointError
from segtrain.task import Output
from segtrain.upsampling import Logits, Upsampled

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


class StartingWeights:
    """Marks a parameter that says which weights a model starts from; whoever has better ones sets it to None."""


Pretrained = Annotated[str | None, StartingWeights]
_AROUND = ("", "net.", "encoder.", "net.encoder.", "model.encoder.")  # what whole models call the part that is wanted


class ImageModel(nn.Module):
    """A network behind its normalisation: uint8 [B, 3, H, W] → logits [B, C, H, W], or [B, C] from a classifier.

    `mean` and `std` are those of RGB values in [0, 1]. They travel in the state dict, so a checkpoint is right whatever
    weights it started from. Images are padded with their mean, at the right and below, to a multiple of `multiple` and
    at least `smallest`; the logits are cropped back (a view). Name the part of `net` that is its `encoder`, or the
    `head` where all else is. With `has_image_head` the network gives (logits, scores of the image), and so does this in
    training. `upsampling` is the bilinear one that the logits of `net` still lack, see `upsampling_deferred`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        encoder: str | None = None,
        head: str | None = None,
        multiple: int = 1,
        smallest: int = 1,
        upsampling: nn.Upsample | None = None,
        has_image_head: bool = False,
    ) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))
        self._encoder, self._head = encoder, head
        self.multiple, self.smallest = multiple, smallest
        self.has_image_head = has_image_head
        self.upsampling = upsampling
        self.defers_upsampling = False

    def forward(self, image: Tensor) -> Logits | Output:
        """Logits of the images, at their size."""
        height, width = image.shape[-2:]
        pad = (0, self._missing(width), 0, self._missing(height))
        output = self.net(F.pad((image.to(self.mean.dtype) - self.mean) / self.std, pad))
        logits = self._at_size(output[0] if self.has_image_head else output, (height, width))
        return Output(logits, output[1]) if self.has_image_head and self.training else logits

    def in_encoder(self, name: str) -> bool:
        """Whether the parameter `name` belongs to the (pretrained) encoder rather than to the head."""
        if self._encoder is not None:
            return name.startswith(f"net.{self._encoder}.")
        return not name.startswith(f"net.{self._head}.")

    def _at_size(self, logits: Tensor, size: tuple[int, int]) -> Logits:
        """Of what the network gives for a padded image, that of the image."""
        if self.upsampling is not None and self.defers_upsampling:
            factor = int(self.upsampling.scale_factor)  # type: ignore[arg-type]  # of a head it is one whole number
            grid = (factor * logits.shape[2], factor * logits.shape[3])
            return Upsampled(logits, grid, size, bool(self.upsampling.align_corners))
        if self.upsampling is not None:
            logits = self.upsampling(logits)
        return logits[..., : size[0], : size[1]] if logits.dim() > 2 and logits.shape[-2:] != size else logits

    def _missing(self, size: int) -> int:
        wanted = max(size, self.smallest)
        return wanted + -wanted % self.multiple - size


@contextlib.contextmanager
def upsampling_deferred(model: nn.Module) -> Iterator[None]:
    """Within it an ImageModel that ends in an upsampling leaves that to whoever takes its logits, an `Upsampled`."""
    if not isinstance(model, ImageModel):
        yield
        return
    before, model.defers_upsampling = model.defers_upsampling, True
    try:
        yield
    finally:
        model.defers_upsampling = before


def load_file(module: nn.Module, path: str | Path, key: str, *, new: str | None = None) -> None:
    """Load every parameter of `module` from a file, but those under the prefix `new`; what is left over is ignored.

    The file may hold the weights of the module, of a whole model around it, or of timm's model under smp's wrapper.
    Raises ValueError, naming the configuration's `key`, if something is missing or has another shape.
    """
    try:
        weights = read_weights(path)
    except CheckpointError as error:
        raise ValueError(f"{key} {error}") from error
    state, missing = module.state_dict(), []
    stripped = [
        {_loose(name.removeprefix(prefix)): value for name, value in weights.items() if name.startswith(prefix)}
        for prefix in _AROUND
    ]
    found = max(stripped, key=lambda names: sum(_loose(name) in names for name in state))
    for name, current in state.items():
        value = found.get(_loose(name))
        if new is not None and name.startswith(f"{new}."):
            continue
        if value is not None and value.shape == current.shape:
            state[name] = value
        elif value is not None:
            missing.append(f"{name} is {tuple(value.shape)}, not {tuple(current.shape)}")
        elif not name.endswith("num_batches_tracked"):
            missing.append(f"{name} is not in it")
    if missing:
        raise ValueError(
            f"{key} {path} do not fit: {'; '.join(missing[:3])} ({len(missing)} of {len(state)} tensors); "
            "use weights of the same network"
        )
    module.load_state_dict(state)


@contextlib.contextmanager
def fetching(what: str, key: str, host: str | None = None) -> Iterator[None]:
    """Around a download (from the hub, or `host`): fails at once without a network. Cached files need none."""
    host = host or urlsplit(huggingface_hub.constants.ENDPOINT).hostname or ""
    wanted = huggingface_hub.constants.HF_HUB_OFFLINE
    offline = wanted or not _reachable(host)
    # the hub would try for half a minute before it looked into its cache or gave up
    huggingface_hub.constants.HF_HUB_OFFLINE = offline
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = f"{host} cannot be reached, and they are not in the cache" if offline else str(error).splitlines()[0]
        raise ValueError(
            f"{what} cannot be fetched ({reason}); set {key}: null to start from random "
            f"weights, or {key}: PATH to a file of weights (.safetensors, .pth), or copy ~/.cache/huggingface and "
            "~/.cache/torch from a machine with a network"
        ) from error
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = wanted


def _loose(name: str) -> str:
    # timm's feature extractors flatten "stages.0" to "stages_0", smp adds "model."
    return name.removeprefix("model.").replace(".", "_")


def _reachable(host: str) -> bool:
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False
