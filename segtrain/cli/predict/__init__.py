"""`segtrain predict`: what a trained model says about images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtrain.cli.arguments import add_model, add_traceback, add_views, new_parser, positive

EXAMPLES = """examples:
  tools/predict.py --checkpoint runs/camvid/20261121-001502 photo.jpg --overlay
  tools/predict.py --checkpoint best.pt photos "more/**/*.jpg" list.txt --out labels --color --tta flip
  tools/predict.py --checkpoint best.pt huge.png --window 1024x1024 --max-pixels 2000000000
  tools/predict.py --checkpoint best.pt --video drive.mp4 --every 5 --overlay
  tools/predict.py --checkpoint runs/cars/best.pt cars --topk 3 --out answers

exit code: 0 all images done, 1 some could not be read (they are named, the others are done), 2 nothing done
"""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = new_parser(
        "predict",
        "Say what a trained model sees in images: label maps, or names with probabilities of a classifier; "
        "and predictions.csv with a line for each image.",
        EXAMPLES,
    )
    add_model(p)
    p.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders, patterns in quotes, lists (.txt)")
    p.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR", help="where to write (predictions)")
    p.add_argument("--overwrite", action="store_true", help="replace what is there; without it that is refused")
    p.add_argument("--color", action="store_true", help="also NAME.color.png, classes in their colours")
    p.add_argument("--overlay", action="store_true", help="also NAME.overlay.jpg, the colours over the image")
    p.add_argument(
        "--probabilities", action="store_true", help="also NAME.probabilities.npy, float16 [classes, height, width]"
    )
    p.add_argument("--topk", type=positive, default=5, metavar="K", help="so many names per image, of a classifier (5)")
    add_views(p)
    p.add_argument(
        "--batch", type=positive, default=8, metavar="N", help="images of one size, or windows, at a time (8)"
    )
    p.add_argument("--max-pixels", type=positive, metavar="N", help="refuse images with more (89478485)")
    p.add_argument("--video", action="store_true", help="the inputs are videos; each frame is an image of its own")
    p.add_argument("--every", type=positive, default=1, metavar="N", help="of a video every Nth frame (1)")
    add_traceback(p)
    p.add_argument("--quiet", action="store_true", help="print errors only")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what prediction needs: help must not wait for torch."""
    args = parser().parse_intermixed_args(argv)
    from segtrain.cli.common import guarded
    from segtrain.cli.predict.predicting import run

    return guarded(lambda: run(args), show_traceback=args.traceback)
