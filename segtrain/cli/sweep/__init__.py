"""`segtrain sweep`: the same training in several variants with several seeds, compared seed by seed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtrain.cli.arguments import add_device, add_json, add_modules, add_traceback, new_parser

EXAMPLES = """a sweep is a small YAML file:
  config: ../bootstrap.yaml              # relative to this file
  overrides: [train.steps=400]           # of every run
  seeds: [0, 1, 2]
  variants:                              # the others are compared with the first
    plain: ["criterion={name: cross_entropy}"]
    hardest quarter: [criterion.top_p=0.25]

examples:
  tools/sweep.py --config configs/sweeps/mining_scenes.yaml
  tools/sweep.py --config configs/sweeps/mining_scenes.yaml seeds=[0,1,2,3,4] --out runs/five_seeds
The same command again keeps the runs that have finished and goes on with the others.
"""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = new_parser(
        "sweep", "Train variants of a configuration with several seeds and compare them seed by seed.", EXAMPLES
    )
    p.add_argument("--config", type=Path, required=True, metavar="C", help="the sweep, a YAML file")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="changes to it: seeds=[0,1,2,3,4]")
    p.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: runs/sweeps/NAME)")
    add_device(p, "auto: a run on each GPU; or cpu, cuda:1")
    add_modules(p)
    add_json(p)
    add_traceback(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what a sweep needs: help must not wait for torch."""
    args = parser().parse_intermixed_args(argv)
    from segtrain.cli.common import guarded
    from segtrain.cli.sweep.sweeping import run

    return guarded(lambda: run(args), show_traceback=args.traceback)
