"""`segtrain predict`: what a trained model says about images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtrain.cli.train import positive

EXAMPLES = """examples:
  tools/predict.py --checkpoint runs/image_folder/20261121-001502 photo.jpg
  tools/predict.py --checkpoint runs/cars/best.pt "photos/**/*.jpg" more_photos list.txt --topk 3 --out answers
"""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(
        prog="predict.py",
        description="Say what a trained classifier sees in images: names with probabilities, and predictions.csv.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--checkpoint", type=Path, required=True, metavar="PT", help="a checkpoint, or a run's directory")
    p.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders, patterns in quotes, lists (.txt)")
    p.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR", help="where predictions.csv goes")
    p.add_argument("--topk", type=positive, default=5, metavar="K", help="so many names per image (5)")
    p.add_argument("--weights", choices=("auto", "raw", "ema"), default="auto", help="auto: those that chose the best")
    p.add_argument("--batch", type=positive, default=16, metavar="N", help="images at a time (16)")
    p.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:1")
    p.add_argument(
        "--import", dest="modules", action="append", default=[], metavar="MODULE", help="your own components"
    )
    p.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    p.add_argument("--quiet", action="store_true", help="print errors only")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what prediction needs: help must not wait for torch."""
    args = parser().parse_intermixed_args(argv)
    from segtrain.cli.common import guarded
    from segtrain.cli.predicting import run

    return guarded(lambda: run(args), show_traceback=args.traceback)
