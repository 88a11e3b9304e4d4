"""A model as a training run left it, to be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from segtrain import shards
from segtrain.config import Component, Config
from segtrain.config.reader import restore
from segtrain.data.transforms import Transform
from segtrain.errors import CheckpointError
from segtrain.maker import Maker
from segtrain.models.common import StartingWeights
from segtrain.precision import Precision, precision
from segtrain.registry import MODELS, TRANSFORMS, parameters
from segtrain.task import Link, Task

Weights = Literal["auto", "raw", "ema"]


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode, what it learned, and what it was validated on."""

    model: nn.Module
    task: Task
    link: Link
    config: Config
    prepare: Sequence[Transform]  # what is done to images before the model sees them
    precision: Precision
    step: int
    maker: Maker  # makes whatever else its configuration names
    best: tuple[str, float, int] | None = None  # the score that was best in the run so far, its value and step

    def logits(self, image: Tensor) -> Tensor:
        """Logits [B, C, H, W] (or [B, C]) of uint8 [B, 3, H, W] on its device, in the precision of the training."""
        with self.precision.autocast():
            logits: Tensor = self.model(image)
        return logits


def load_trained(
    path: Path, device: torch.device, *, weights: Weights = "auto", overrides: Sequence[str] = ()
) -> Trained:
    """The model of a checkpoint, or the best one of a run's directory.

    `weights`: raw, their average (ema), or those that decided which were the best (auto). `overrides` (key=value)
    change its configuration. The components that the configuration names must be registered. Raises CheckpointError
    and ConfigError.
    """
    file = _file(path)
    state = shards.load(file)
    if not {"config", "task", "model", "step"} <= state.keys():
        raise CheckpointError(f"{file} is no checkpoint of a run, its keys are {', '.join(map(str, list(state)[:8]))}")
    alone = ("log.observers=[]", *overrides)  # it need not be at hand what watched the training
    config, source = restore(state["config"], file, alone)
    about = state["task"]
    task = Task(
        about["kind"], tuple(about["classes"]), tuple(tuple(color) for color in about["palette"]), about["ignore_index"]
    )
    maker = Maker(source)
    maker.context = {TRANSFORMS: (task.ignore_index,), MODELS: (task.channels(about["link"]),)}
    model: nn.Module = maker.make(_from_nothing(config.model)).to(device)
    try:
        model.load_state_dict(_chosen(state, config, weights, file))
    except RuntimeError as error:  # torch lists the tensors
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise CheckpointError(f"{file}: its weights are not those of model {config.model.name}: {reason}") from error
    prepare = [maker.make(transform) for transform in config.data.val_prepare]
    accuracy = precision(config.train.amp, device)
    metric, value, at = state.get("best") or ("", 0.0, -1)
    best = (metric, value, at) if at >= 0 else None
    return Trained(model.eval(), task, about["link"], config, prepare, accuracy, state["step"], maker, best)


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("best.pt", "last.pt"):
        if (file := path / "checkpoints" / name).exists():
            return file
    raise CheckpointError(f"{path} holds no checkpoints/best.pt or last.pt; give a checkpoint or a run's directory")


def _from_nothing(model: Component) -> Component:
    """The same model without the weights that its training started from, which need not be fetched again."""
    keys: dict[str, Any] = {
        key: None
        for key, parameter in parameters(MODELS[model.name]).items()
        if StartingWeights in get_args(parameter.annotation)
    }
    return dataclasses.replace(model, params={**model.params, **keys})


def _chosen(state: dict[str, Any], config: Config, weights: Weights, file: Path) -> dict[str, Any]:
    wanted = config.validate.weights if weights == "auto" else weights
    chosen: dict[str, Any] | None = state["model" if wanted == "raw" else "ema"]
    if chosen is None:
        raise CheckpointError(f"{file} holds no average of weights (train.ema was null); use --weights raw")
    return chosen
