"""Flags that several commands have alike. Imports nothing that takes time."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SCALES = (0.75, 1.0, 1.25)
TTA: Mapping[str, tuple[tuple[float, ...], bool]] = {  # name → scales, flip
    "none": ((1.0,), False),
    "flip": ((1.0,), True),
    "ms": (SCALES, True),
}


def new_parser(name: str, about: str, examples: str) -> argparse.ArgumentParser:
    """A parser for tools/NAME.py, or `segtrain NAME`, whose help ends with `examples`."""
    return argparse.ArgumentParser(
        prog=as_called(f"tools/{name}.py").removeprefix("tools/"),
        description=about,
        epilog=as_called(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def as_called(commands: str) -> str:
    """`tools/NAME.py` in examples as `segtrain NAME`, where that is how the command was called.

    Whoever installed a wheel has no folder configs, but the configurations by their names.
    """
    typed = Path(sys.argv[0])
    if typed.stem != "segtrain" and (typed.name, typed.parent.name) != ("__main__.py", "segtrain"):
        return commands
    as_module = re.sub(r"^( *torchrun .*)tools/(\w+)\.py", r"\1-m segtrain \2", commands, flags=re.MULTILINE)
    by_name = re.sub(r"--config configs/(\w+)\.yaml", r"--config \1", as_module)
    return re.sub(r"\btools/(\w+)\.py", r"segtrain \1", by_name)


def add_device(p: argparse.ArgumentParser, what: str = "auto, cpu, cuda or cuda:1") -> None:
    """--device."""
    p.add_argument("--device", default="auto", metavar="D", help=what)


def add_modules(p: argparse.ArgumentParser) -> None:
    """--import."""
    p.add_argument(
        "--import", dest="modules", action="append", default=[], metavar="MODULE", help="your own components"
    )


def add_json(p: argparse.ArgumentParser, what: str = "print one JSON object instead of tables") -> None:
    """--json."""
    p.add_argument("--json", action="store_true", help=what)


def add_traceback(p: argparse.ArgumentParser) -> None:
    """--traceback."""
    p.add_argument("--traceback", action="store_true", help="show where in the code an error arose")


def add_model(p: argparse.ArgumentParser, *, device: bool = True) -> None:
    """Which model: --checkpoint, --weights, --import, and --device."""
    p.add_argument("--checkpoint", type=Path, required=True, metavar="PT", help="a checkpoint, or a run's directory")
    p.add_argument("--weights", choices=("auto", "raw", "ema"), default="auto", help="auto: those that chose the best")
    if device:
        add_device(p)
    add_modules(p)


def add_views(p: argparse.ArgumentParser) -> None:
    """How it looks: --window, --stride, --tta, --scales."""
    p.add_argument("--window", type=size, metavar="HxW", help="look through overlapping windows (512x512)")
    p.add_argument("--stride", type=size, metavar="HxW", help="how far apart the windows are (half a window)")
    p.add_argument(
        "--tta",
        choices=tuple(TTA),
        default="none",
        help="flip: the mirror image too; ms: also at the scales 0.75, 1 and 1.25",
    )
    p.add_argument("--scales", type=scales, metavar="S,S", help="other scales for --tta: 0.5,1,1.5")


def positive(text: str) -> int:
    """An integer above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a number above 0 is needed, got {text!r}")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """A height and a width, `512x1024`, or one number for both."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"a height and a width such as 512x1024 are needed, got {text!r}")
    return int(sides[0]), int(sides[-1])


def scales(text: str) -> tuple[float, ...]:
    """Numbers above 0."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value <= 8 for value in values):
        raise argparse.ArgumentTypeError(f"numbers above 0 and up to 8 such as 0.75,1,1.25 are needed, got {text!r}")
    return values


def numbers(text: str) -> Sequence[int]:
    """Integers above 0: `1,3,5`."""
    return [positive(part) for part in text.split(",")]
