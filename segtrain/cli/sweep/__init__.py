"""`segtrain sweep`: the same training in several variants with several seeds, compared seed by seed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

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
    p = argparse.ArgumentParser(
        prog="sweep.py",
        description="Train variants of a configuration with several seeds and compare them seed by seed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--config", type=Path, required=True, metavar="C", help="the sweep, a YAML file")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="changes to it: seeds=[0,1,2,3,4]")
    p.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: runs/sweeps/NAME)")
    p.add_argument("--device", default="auto", metavar="D", help="auto: a run on each GPU; or cpu, cuda:1")
    p.add_argument(
        "--import", dest="modules", action="append", default=[], metavar="MODULE", help="your own components"
    )
    p.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    p.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what a sweep needs: help must not wait for torch."""
    args = parser().parse_intermixed_args(argv)
    from segtrain.cli.common import guarded
    from segtrain.cli.sweep.sweeping import run

    return guarded(lambda: run(args), show_traceback=args.traceback)
