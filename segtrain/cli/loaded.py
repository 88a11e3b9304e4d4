"""What the flags of arguments.py mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache

from segtrain import distributed
from segtrain.build import label_counts, register_components
from segtrain.cli.arguments import TTA
from segtrain.errors import ConfigError
from segtrain.inference import Inference
from segtrain.losses import components
from segtrain.losses.criterion import Criterion, as_criterion
from segtrain.registry import CRITERIA, PIXEL_LOSSES, REGION_LOSSES
from segtrain.trained import Trained, load_trained


def trained(args: argparse.Namespace, overrides: Sequence[str] = ()) -> Trained:
    """The model of --checkpoint with the --weights, on the --device; `overrides` change its configuration."""
    register_components(args.modules)
    return load_trained(args.checkpoint, distributed.start(args.device), weights=args.weights, overrides=overrides)


def inference(args: argparse.Namespace) -> Inference:
    """How to look at images. Raises ConfigError."""
    scales, flip = TTA[args.tta]
    if args.scales and args.tta != "ms":
        raise ConfigError(f"--scales goes with --tta ms, got --tta {args.tta}")
    try:
        return Inference(args.window, args.stride, args.scales or scales, flip, args.batch)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error


def criterion(model: Trained) -> Criterion:
    """The criterion of the run, as at its end. Raises UserError where it needs what is not here, such as its data."""
    config, maker = model.config, model.maker
    maker.run_for(config.train.steps or max(1, model.step))
    maker.label_counts = cache(lambda: label_counts(maker.make(config.data.train)))
    for registry in (CRITERIA, PIXEL_LOSSES, REGION_LOSSES):
        maker.context[registry] = (model.task,)
    return as_criterion(maker.make(config.criterion), model.task)


def plain_criterion(model: Trained) -> tuple[Criterion, str]:
    """The unweighted loss that belongs to the model's logits, and its name."""
    name = "cross_entropy" if model.link == "softmax" else "bce_with_logits"
    return as_criterion(getattr(components, name)(model.task), model.task), name
