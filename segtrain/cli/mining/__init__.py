"""`segtrain mining`: what mining selects at any p, the hardest images, and labels that are probably wrong."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtrain.cli.arguments import add_json, add_model, add_traceback, new_parser, positive

EXAMPLES = """examples:
  tools/mining.py --checkpoint runs/bootstrap/20261121-001502
  tools/mining.py --checkpoint runs/bootstrap/20261121-001502 --split train --suspects 200
  tools/mining.py --checkpoint best.pt --top-p 0.02,0.05,0.1 --boundary 5 --suspects 0 --out hard

It writes top_p.csv, classes.csv, curve.csv, curve.svg and classes.svg, the hardest images as hardest*.jpg, and labels
that are probably wrong as suspects.csv and suspects-*.jpg. Of a run's directory the best checkpoint is looked at; with
its other ones it is compared.
"""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = new_parser(
        "mining", "See what mining selects at any p, choose p from evidence, and find wrong labels.", EXAMPLES
    )
    add_model(p)
    p.add_argument("--split", choices=("train", "val"), default="val", help="the data to look at, not augmented (val)")
    p.add_argument("--top-p", type=shares, default=(0.05, 0.1, 0.25, 0.5), metavar="P,P,…", help="0.05,0.1,0.25,0.5")
    p.add_argument("--boundary", type=positive, default=3, metavar="PX", help="so near is near a boundary (3)")
    p.add_argument("--panels", type=number, default=8, metavar="K", help="hardest images to draw (8); 0: none")
    p.add_argument("--suspects", type=number, default=50, metavar="K", help="labels to suspect (50); 0: none")
    p.add_argument("--limit", type=positive, metavar="N", help="look at the first N samples")
    p.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: mining/SPLIT in the run)")
    p.add_argument("--overwrite", action="store_true", help="replace what an earlier call wrote there")
    p.add_argument("--batch", type=positive, metavar="N", help="images at a time (default: as in validation)")
    add_json(p)
    add_traceback(p)
    return p


def shares(text: str) -> tuple[float, ...]:
    """Shares of the pixels, in order and each once."""
    try:
        values = sorted({float(part) for part in text.split(",")})
    except ValueError:
        values = []
    if not values or not all(0 < value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"shares of the pixels above 0 and up to 1 are needed, got {text!r}")
    return tuple(values)


def number(text: str) -> int:
    """An integer from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number from 0 on is needed, got {text!r}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what the work needs: help must not wait for torch."""
    args = parser().parse_args(argv)
    from segtrain.cli.common import guarded
    from segtrain.cli.mining.run import run

    return guarded(lambda: run(args), show_traceback=args.traceback)
