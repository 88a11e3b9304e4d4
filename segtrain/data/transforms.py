"""Augmentations: every one of Albumentations that fits, by its own name and with its own keys.

A transform maps a sample and a random generator to a sample. The generator belongs to the one sample, so what happens
to it depends on nothing else: not on workers, not on the order of reading.
"""

from __future__ import annotations

import inspect
import os
import random
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from segtrain.data.crop import RandomScaleCrop
from segtrain.registry import TRANSFORMS
from segtrain.task import Sample

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or importing it asks the network for a newer version

import albumentations

Transform = Callable[[Sample, np.random.Generator], Sample]
Share = Annotated[float, Field(ge=0, le=1)]

# Transforms that an image and its labels are not enough for, or not safe with
UNFIT = {
    # boxes
    *("BBoxSafeRandomCrop", "AtLeastOneBBoxRandomCrop", "RandomCropNearBBox", "RandomSizedBBoxSafeCrop"),
    # other images or fonts
    *("FDA", "HistogramMatching", "PixelDistributionAdaptation", "Mosaic", "OverlayElements", "TextImage"),
    # volumes and spectrograms
    *("CenterCrop3D", "CoarseDropout3D", "CubicSymmetry", "Pad3D", "PadIfNeeded3D", "RandomCrop3D", "ToTensor3D"),
    *("FrequencyMasking", "TimeMasking", "TimeReverse"),
    # images that are not uint8 afterwards: normalising is the model's
    *("FromFloat", "Normalize", "ToFloat", "ToTensorV2"),
    "GridElasticDeform",  # fills labels with class 0
    "Morphological",  # takes maxima of label ids
    "Lambda",  # takes code
    "ToRGB",  # they are
    *("BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D"),  # abstract
}
# Parameters that are no keys of a config: the first would make labels of nothing, the others take arrays and code
OURS = {"fill_mask", "mask_interpolation", "strict", "mask", "mask_params"}


@dataclass(frozen=True)
class InTurn:
    """Several transforms in order, as one."""

    transforms: tuple[Transform, ...]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample

    @property
    def begins_with_a_window(self) -> bool:
        """Whether only a part of the sample is looked at, so that the rest need not be decoded."""
        return isinstance(next(iter(self.transforms), None), RandomScaleCrop)


def compose(transforms: Sequence[Transform]) -> InTurn:
    """All of them in order, as one."""
    return InTurn(tuple(transforms))


@dataclass(frozen=True)
class Albumentation:
    """A transform of Albumentations with the random numbers that it is given instead of its own."""

    transform: albumentations.BasicTransform

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        self.transform.set_random_state(rng, random.Random(int(rng.integers(1 << 63))))
        if sample.target.ndim == 0:
            return sample._replace(image=self.transform(image=sample.image)["image"])
        changed = self.transform(image=sample.image, mask=sample.target)
        return sample._replace(image=changed["image"], target=changed["mask"])


def _register(name: str, cls: type[albumentations.BasicTransform]) -> None:
    keys = _keys(cls)
    takes = inspect.signature(cls.__init__).parameters

    def factory(ignore_index: int, **given: Any) -> Transform:
        if given.get("area_for_downscale") == "image_mask":
            raise ValueError("area_for_downscale 'image_mask' would average label ids; use 'image' or null")
        ours = {"fill_mask": float(ignore_index)} if "fill_mask" in takes else {}
        if "InitSchema" in vars(cls):
            ours |= {"strict": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to prefer another transform; with strict, mistakes are errors
            try:
                return Albumentation(cls(**given, **ours))
            except ValueError as error:
                raise ValueError(_plain(error)) from error

    factory.__name__ = factory.__qualname__ = name
    factory.__doc__ = inspect.getdoc(cls)
    factory.__annotations__ = {key.name: key.annotation for key in keys}
    context = inspect.Parameter("ignore_index", inspect.Parameter.POSITIONAL_ONLY, annotation=int)
    factory.__signature__ = inspect.Signature([context, *keys])  # type: ignore[attr-defined]
    TRANSFORMS.register(name)(factory)


def _keys(cls: type[albumentations.BasicTransform]) -> list[inspect.Parameter]:
    """The parameters of the class as keyword-only ones, their annotations resolved where they were written."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name != "self" and name not in OURS and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    written = SimpleNamespace(__annotations__={name: key.annotation for name, key in parameters.items()})
    hints = typing.get_type_hints(written, vars(sys.modules[owner.__module__]), include_extras=True)
    return [
        key.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]) for name, key in parameters.items()
    ]


def _plain(error: ValueError) -> str:
    """What is wrong with which key, without pydantic's frame."""
    if not isinstance(error.__cause__, ValidationError):
        return str(error)
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'keys'}: {item['msg']}, received {item['input']!r}"
        for item in error.__cause__.errors()
    )


for _name, _cls in sorted(vars(albumentations).items()):
    if inspect.isclass(_cls) and issubclass(_cls, albumentations.BasicTransform) and _name not in UNFIT:
        _register(_name, _cls)


@TRANSFORMS.register("OneOf")
@dataclass(frozen=True)
class OneOf:
    """With probability `p`, one of the transforms in `of`, each as likely as the others."""

    ignore_index: int
    _: KW_ONLY
    of: list[Annotated[Transform, TRANSFORMS]]
    p: Share = 0.5

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError("of []: there is nothing to choose from; list one or more transforms")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.p:
            return sample
        return self.of[int(rng.integers(len(self.of)))](sample, rng)
