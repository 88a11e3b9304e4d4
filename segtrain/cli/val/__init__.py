"""`segtrain val`: how good a trained model is, class by class and image by image."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtrain.cli.arguments import add_json, add_model, add_traceback, add_views, new_parser, numbers, positive

EXAMPLES = """examples:
  tools/val.py --checkpoint runs/camvid/20261121-001502
  tools/val.py --checkpoint best.pt --tta ms --window 512x512 --boundary 1,2,3,5,9 --worst 16 --out scores
  tools/val.py --checkpoint best.pt --split train --weights raw
  tools/val.py --checkpoint best.pt data.val.root=/other/place data.val.split=test
  torchrun --standalone --nproc_per_node=8 tools/val.py --checkpoint best.pt

It writes classes.csv, images.csv, confusion.csv, confused.csv, scores.json and pictures (confusion.jpg, worst.jpg).
"""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = new_parser(
        "val",
        "Validate a trained model. The checkpoint says what it was validated on; overrides change that.",
        EXAMPLES,
    )
    add_model(p)
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to its configuration: data.val.split=test"
    )
    p.add_argument(
        "--split", choices=("train", "val"), default="val", help="data.val or data.train, not augmented (val)"
    )
    p.add_argument("--limit", type=positive, metavar="N", help="look at the first N samples")
    add_views(p)
    p.add_argument("--batch", type=positive, metavar="N", help="images, or windows, at a time (as in the run)")
    p.add_argument("--boundary", type=numbers, default=(1, 3, 5), metavar="W,W", help="widths in pixels (1,3,5)")
    p.add_argument("--worst", type=positive, default=8, metavar="K", help="draw the K worst images (8)")
    p.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: validation/TIME in the run)")
    add_json(p)
    add_traceback(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what validation needs: help must not wait for torch."""
    args = parser().parse_intermixed_args(argv)
    from segtrain.cli.common import guarded
    from segtrain.cli.val.validating import run

    return guarded(lambda: run(args), show_traceback=args.traceback)
