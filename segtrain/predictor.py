"""A trained model to be asked: images in, label maps or names out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from segtrain.build import register_components
from segtrain.data.center_crop import CenterCrop
from segtrain.data.images import PIXEL_LIMIT, read_image, to_rgb
from segtrain.errors import DataError
from segtrain.inference import WHOLE, Inference
from segtrain.memory import memory_for
from segtrain.task import Sample, Task, predict, probabilities
from segtrain.trained import Trained, Weights, load_trained

Pixels = npt.NDArray[np.uint8]  # [H, W, 3], RGB
Labels = npt.NDArray[np.uint8]  # [H, W], class ids
Picture = str | Path | Image.Image | npt.NDArray[Any]

_RESIZES = ("Resize", "SmallestMaxSize", "LongestMaxSize")  # logits are brought back by the opposite
SMALLER = "Look at images in windows (window=(512, 512), --window 512x512), or at fewer at a time"


@dataclass(frozen=True)
class Predictor:
    """A trained model, ready to be asked; made by `segtrain.load`."""

    trained: Trained

    @property
    def task(self) -> Task:
        """What it has learned."""
        return self.trained.task

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; a label map holds their numbers in this order."""
        return self.task.classes

    def predict(self, image: Picture, *, topk: int = 5, **options: Any) -> Labels | list[tuple[str, float]]:
        """The class of each pixel, uint8 [H, W] at the size of `image`; of a classifier the `topk` most probable names.

        `image`: a path, a Pillow image, or RGB or grey values uint8 [H, W, 3] or [H, W]. A file is turned as its EXIF
        orientation says, an image object is taken as it stands. `options` are those of `segtrain.inference.Inference`:
        `window`, `stride`, `scales`, `flip`. Raises DataError for an image that cannot be read.
        """
        shares = self._logits(image, options)
        if self.task.kind == "segmentation":
            labels: Labels = to_labels(shares)[0]
            return labels
        best = probabilities(shares)[0].topk(min(topk, self.task.num_classes))
        return [(self.classes[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    def probabilities(self, image: Picture, **options: Any) -> npt.NDArray[np.float32]:
        """Of each class, float32 [K, H, W] at the size of `image`; of a classifier [K]. Arguments as in `predict`."""
        shares: npt.NDArray[np.float32] = probabilities(self._logits(image, options))[0].cpu().numpy()
        return shares

    def _logits(self, image: Picture, options: dict[str, Any]) -> Tensor:
        array, name = as_pixels(image)
        return self.logits([self.prepared(array, name)], Inference(**options), size=array.shape[:2])

    def prepared(self, image: Pixels, name: str) -> Pixels:
        """The image as the model was validated on it. Raises DataError naming `name`.

        Of a segmentation it must still show all of the image, or no label map could be made of it.
        """
        val = self.trained.config.data.val
        if val.name == "center_crop":  # a data set that cuts the images of another one
            one: Any = [Sample(image, np.array(self.task.ignore_index), name)]
            image = CenterCrop(one, tuple(val.params["size"]), val.params.get("share", 0.875))[0].image
        return self.transformed(image, name)

    def transformed(self, image: Pixels, name: str) -> Pixels:
        """The image, as the validation set gives it, after `data.val_prepare`. Raises DataError naming `name`."""
        sample = Sample(image, np.array(self.task.ignore_index), name)
        rng = np.random.default_rng(0)
        for component, transform in zip(self.trained.config.data.val_prepare, self.trained.prepare, strict=True):
            before = sample.image.shape
            try:
                sample = transform(sample, rng)
            except Exception as error:  # whatever a library raises, such as for an image that is too small for a crop
                raise DataError(f"{name}: data.val_prepare: {component.name}: {error}") from error
            kept = self.task.kind == "classification" or component.name in _RESIZES
            if sample.image.shape != before and not kept:
                raise DataError(
                    f"{name}: data.val_prepare: {component.name} changes which part of an image is seen, so there is "
                    f"no label map of all of it; a model whose val_prepare only resizes ({', '.join(_RESIZES)}) is "
                    "needed"
                )
        return sample.image

    def logits(self, images: Sequence[Pixels], inference: Inference = WHOLE, size: Any = None) -> Tensor:
        """Logits [B, C, H, W] (or [B, C]) of prepared images of one size, as prepared or resized to `size`."""
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        with memory_for(lambda: "x".join(map(str, batch.shape)), self.device, SMALLER):
            logits = inference(self.net, batch)
            if logits.ndim == 4 and size is not None and logits.shape[-2:] != tuple(size):
                logits = F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)
        return logits

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.trained.precision.device

    @cached_property
    def resizes(self) -> bool:
        """Whether the model sees images at another size than their own."""
        return any(component.name in _RESIZES for component in self.trained.config.data.val_prepare)

    @torch.no_grad()
    def net(self, image: Tensor) -> Tensor:
        """Logits of uint8 [B, 3, H, W] on any device, in the precision of the training."""
        return self.trained.logits(image.to(self.device))


def load_predictor(
    path: str | Path, *, device: str | torch.device = "auto", weights: Weights = "auto", modules: Sequence[str] = ()
) -> Predictor:
    """See `segtrain.load`."""
    register_components(modules)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Predictor(load_trained(Path(path), torch.device(device), weights=weights))


def to_labels(logits: Tensor) -> Labels:
    """Class ids uint8 [B, H, W] of logits [B, C, H, W]."""
    labels: Labels = predict(logits).to(torch.uint8).cpu().numpy()
    return labels


def as_pixels(image: Picture) -> tuple[Pixels, str]:
    """RGB uint8 [H, W, 3] and a name for messages. Raises DataError."""
    if isinstance(image, (str, Path)):
        return read_pixels(Path(image)), str(image)
    if isinstance(image, Image.Image):
        return to_rgb(image, "the image"), "the image"
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise DataError(f"an array {array.dtype} {list(array.shape)}; expected RGB or grey, uint8 [H, W, 3] or [H, W]")
    if array.size == 0:
        raise DataError(f"an array {list(array.shape)} without a pixel")
    deep = array[..., None] if array.ndim == 2 else array
    return np.ascontiguousarray(np.broadcast_to(deep, (*array.shape[:2], 3))), "the array"


def read_pixels(path: Path, max_pixels: int = PIXEL_LIMIT) -> Pixels:
    """RGB uint8 [H, W, 3] of an image file, or of an .npy file, which is mapped into memory and not read.

    Raises DataError, also for more than `max_pixels` in an image file.
    """
    if path.suffix != ".npy":
        return read_image(path, max_pixels=max_pixels)
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an array: {error}") from error
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise DataError(f"{path} holds {array.dtype} {list(array.shape)}; expected RGB, uint8 [H, W, 3]")
    return array
