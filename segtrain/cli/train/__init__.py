"""`segtrain train`: from a configuration to a trained model."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from segtrain.cli.arguments import add_device, add_modules, add_traceback, new_parser, positive
from segtrain.cli.stopping import leave, on_stop

EXAMPLES = """examples:
  tools/train.py --config configs/bootstrap.yaml
  tools/train.py --config configs/camvid.yaml data.batch_size=16 criterion.top_p=0.15
  tools/train.py --config configs/bootstrap.yaml --resume auto train.steps=800
  torchrun --standalone --nproc_per_node=8 tools/train.py --config configs/camvid.yaml
"""


def parser() -> argparse.ArgumentParser:
    """The flags; everything else about a run stands in its configuration."""
    p = new_parser("train", "Train a model from a configuration.", EXAMPLES)
    p.add_argument("--config", type=Path, metavar="C", help="the configuration, a YAML file")
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to it: train.steps=800 criterion.top_p=0.1"
    )
    p.add_argument("--resume", metavar="auto|PATH", help="go on with a run: the newest, or the one at PATH")
    p.add_argument(
        "--init", type=Path, metavar="PATH", help="start from the weights of a checkpoint; nothing else of it"
    )
    p.add_argument(
        "--init-skip",
        action="append",
        default=[],
        metavar="PATTERN",
        help="what --init starts anew: 'net.segmentation_head.*'",
    )
    p.add_argument("--run-dir", type=Path, metavar="DIR", help="where to write (default: log.root/NAME/time)")
    p.add_argument("--name", metavar="N", help="name of the run (default: that of the configuration)")
    add_device(p)
    add_modules(p)
    p.add_argument("--dry-run", action="store_true", help="build everything, try one batch, write nothing")
    p.add_argument(
        "--overfit", type=positive, metavar="N", help="learn N training samples by heart, without augmentation"
    )
    p.add_argument("--limit-train", type=positive, metavar="N", help="use the first N training samples")
    p.add_argument("--limit-val", type=positive, metavar="N", help="use the first N validation samples")
    p.add_argument("--profile", type=positive, metavar="STEPS", help="run so many steps under the profiler, then end")
    p.add_argument("--check-data", action="store_true", help="read every file of both splits before training")
    p.add_argument("--override-resume", action="append", default=[], metavar="KEY", help="let KEY differ when resuming")
    add_traceback(p)
    p.add_argument("--quiet", action="store_true", help="print nothing but the last line")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what training needs: help must not wait for torch."""
    p = parser()
    args = p.parse_intermixed_args(argv)
    if args.config is None and args.resume in (None, "auto"):
        given = next((word for word in args.overrides if "=" not in word), None)
        hint = f": --config {shlex.quote(given)}" if given else " (it may be left out with --resume PATH of a run)"
        p.error(f"--config is needed{hint}")
    with on_stop(leave):
        from segtrain.cli.common import guarded
        from segtrain.cli.train.training import train

        return guarded(lambda: train(args), show_traceback=args.traceback)
