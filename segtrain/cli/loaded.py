"""What the flags of looking.py mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from segtrain import distributed
from segtrain.build import register_components
from segtrain.cli.looking import TTA
from segtrain.errors import ConfigError
from segtrain.inference import Inference
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
