"""`segtrain tune`: a learning rate and a batch size to start with, found by trying; nothing is changed."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from segtrain.cli import subcommands
from segtrain.cli.arguments import add_device, add_json, add_modules, add_traceback, positive

EXAMPLES = """examples:
  tools/tune.py lr --config configs/camvid.yaml
  tools/tune.py lr --config my.yaml optimizer.name=sgd --min 1e-4 --max 10 --steps 200 --out lr.svg
  tools/tune.py batch --config configs/camvid.yaml
  tools/tune.py batch --config my.yaml train.amp=bf16 --fraction 0.7
"""


def parser() -> argparse.ArgumentParser:
    """One subcommand for each value to find."""
    about = "Find a learning rate and a batch size to start with. It only suggests; no run and no file is changed."
    return subcommands.parser("tune", about, COMMANDS, EXAMPLES)


def _lr(p: argparse.ArgumentParser) -> None:
    """a range test: train a few steps with a rate that grows, plot the loss, suggest a rate"""
    _of_config(p)
    p.add_argument("--min", dest="low", type=rate, default=1e-6, metavar="LR", help="the first rate (1e-6)")
    p.add_argument("--max", dest="high", type=rate, default=1.0, metavar="LR", help="the last one (1)")
    p.add_argument("--steps", type=positive, default=100, metavar="N", help="steps between them (100)")
    p.add_argument("--out", type=Path, metavar="SVG", help="the plot (default: tune-lr-NAME.svg, here)")
    p.add_argument("--overwrite", action="store_true", help="replace a plot of the same name")


def _batch(p: argparse.ArgumentParser) -> None:
    """the largest batch that a GPU bears, with memory and speed of those tried"""
    _of_config(p)
    p.add_argument("--fraction", type=share, default=0.85, metavar="F", help="of the GPU's free memory to use (0.85)")
    p.add_argument("--most", type=positive, default=1024, metavar="N", help="the largest batch to try (1024)")


COMMANDS: dict[str, Callable[[argparse.ArgumentParser], None]] = {"lr": _lr, "batch": _batch}


def _of_config(p: argparse.ArgumentParser) -> None:
    p.add_argument("--config", type=Path, required=True, metavar="C", help="the configuration, a YAML file")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="changes to it, for the test alone")
    add_device(p)
    add_modules(p)
    add_json(p, "print one JSON object instead of lines")
    add_traceback(p)


def rate(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0 is needed (1e-4), got {text!r}")
    return value


def share(text: str) -> float:
    """A number above 0 and at most 1."""
    value = rate(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"a share from 0 to 1 is needed (0.85), got {text!r}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what trying needs: help must not wait for torch."""
    args = parsed(argv)
    from segtrain.cli.common import guarded

    if args.command == "lr":
        from segtrain.cli.tune.lr import run
    else:
        from segtrain.cli.tune.batch import run
    return guarded(lambda: run(args), show_traceback=args.traceback)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags, which have to fit each other."""
    p = parser()
    args = subcommands.parsed(p, argv)
    if args.command == "lr" and not args.low < args.high:
        p.error(f"--min {args.low:g} is not below --max {args.high:g}")
    if args.command == "lr" and args.steps < 10:
        p.error(f"--steps {args.steps} is too few to see a curve; 50 to 200 show one")
    return args
