"""`segtrain bench`: how fast a configuration trains here, what holds it up, and what to change next."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from segtrain.cli.arguments import add_device, add_json, add_modules, add_traceback, new_parser, positive

PARTS = ("loader", "model", "step", "together")
EXAMPLES = """examples:
  tools/bench.py --config configs/camvid.yaml
  tools/bench.py --config my.yaml data.workers=8 train.amp=bf16
  tools/bench.py --config my.yaml --part loader --steps 200
"""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = new_parser(
        "bench",
        "Measure the loader, the model and the step of a configuration apart and together, and say what "
        "to change next. Nothing is written and no run is changed.",
        EXAMPLES,
    )
    p.add_argument("--config", type=Path, required=True, metavar="C", help="the configuration, a YAML file")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="changes to it: data.workers=8")
    p.add_argument("--part", type=parts, default=PARTS, metavar="NAMES", help=f"some of {','.join(PARTS)} (all)")
    p.add_argument("--steps", type=positive, metavar="N", help="batches per part (as many as fit into 10 s, 3 to 50)")
    add_device(p)
    add_modules(p)
    add_json(p, "print one JSON object instead of a table")
    add_traceback(p)
    return p


def parts(text: str) -> tuple[str, ...]:
    """Names of parts, in their order."""
    names = text.split(",")
    if not set(names) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"some of {','.join(PARTS)} are needed, got {text!r}")
    return tuple(name for name in PARTS if name in names)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what measuring needs: help must not wait for torch."""
    args = parser().parse_intermixed_args(argv)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells of its own beginning and end
    from segtrain.cli.bench.measuring import run
    from segtrain.cli.common import guarded

    return guarded(lambda: run(args), show_traceback=args.traceback)
