"""Components that only these tests know, a config that uses them, and a place to write and read configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from segtrain.config import Config, load
from segtrain.errors import ConfigError
from segtrain.registry import CRITERIA, DATASETS, MODELS, OPTIMIZERS, SCHEDULES, TRANSFORMS
from segtrain.schedule import Rise, Steps

REFERENCE = """\
task: segmentation                 # or classification
seed: 0
data:
  train: {name: toy_scenes, split: train, length: 640, size: [96, 128]}
  val:   {name: toy_scenes, split: val,   length: 160, size: [96, 128]}
  batch_size: 8                    # per process
  workers: auto
  augment:
    - {name: ToyCrop, size: [96, 96], scale: [0.75, 1.5]}
    - {name: ToyFlip, p: 0.5}
model: {name: toy_net, arch: fpn, encoder: resnet18, encoder_weights: null}
criterion:
  name: toy_mined
  top_p: 0.25                      # share of the valid pixels
  warmup: {name: linear, start: 100, end: 300}
  scope: batch
optimizer: {name: toy_adam, lr: 2e-3, weight_decay: 0.01, clip_norm: 1.0}
schedule: {name: poly, power: 0.9, warmup: 40}
train: {steps: 400, amp: auto, accumulate: 1, channels_last: true, compile: false, ema: {decay: 0.999}}
validate: {every: 100, monitor: val/miou, weights: ema}
checkpoint: {every: 200, keep_last: 2}
log: {every: 20, pictures: 8, root: runs}
"""


def toy_scenes(
    *,
    split: Literal["train", "val"],
    length: int = 640,
    size: tuple[int, int] = (96, 128),
    values: dict[int, str] | None = None,
) -> None: ...


def toy_crop(ignore: int, *, size: tuple[int, int], scale: tuple[float, float] = (1, 1)) -> None: ...


def toy_flip(ignore: int, *, p: float = 0.5) -> None: ...


def toy_net(channels: int, *, arch: str, encoder: str, encoder_weights: str | None = "imagenet") -> None: ...


def toy_mined(
    task: object,
    *,
    top_p: Annotated[float, Field(gt=0, le=1, description="a share of the valid pixels: 0.25 = the hardest quarter")],
    warmup: Steps | Rise | None = None,
    scope: Literal["batch", "rank", "image"] = "batch",
    class_weights: list[float] | None = None,
) -> None: ...


def toy_adam(
    groups: object,
    *,
    lr: Annotated[float, Field(gt=0)],
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> None: ...


def toy_schedule(run: int, *, shape: Callable[[float], float] = abs, end: Steps | None = None) -> None: ...


COMPONENTS: list[tuple[Any, str, Any]] = [
    (DATASETS, "toy_scenes", toy_scenes),
    (TRANSFORMS, "ToyCrop", toy_crop),
    (TRANSFORMS, "ToyFlip", toy_flip),
    (MODELS, "toy_net", toy_net),
    (CRITERIA, "toy_mined", toy_mined),
    (OPTIMIZERS, "toy_adam", toy_adam),
    (SCHEDULES, "toy_schedule", toy_schedule),
]


class Workplace:
    """A directory in which configs are written and read as `job.yaml`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, text: str | bytes, name: str = "job.yaml") -> Path:
        path = self.directory / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def load(self, text: str | bytes = REFERENCE, *overrides: str) -> Config:
        return load(self.write(text), overrides)[0]

    def errors(self, text: str | bytes = REFERENCE, *overrides: str, schema: type = Config) -> list[str]:
        """The messages of the ConfigError, without the directory."""
        with pytest.raises(ConfigError) as caught:
            load(self.write(text), overrides, schema=schema)
        return [message.replace(f"{self.directory}/", "") for message in caught.value.messages]

    def error(self, text: str | bytes = REFERENCE, *overrides: str, schema: type = Config) -> str:
        (message,) = self.errors(text, *overrides, schema=schema)
        return message
