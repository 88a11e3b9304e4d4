"""`segtrain data`: look at a data set before training on it, divide it, convert it, make one up."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from segtrain.cli import subcommands
from segtrain.cli.arguments import add_json, add_modules, add_traceback, positive

EXAMPLES = """examples:
  tools/data.py check configs/camvid.yaml --all
  tools/data.py stats my.yaml --json
  tools/data.py browse my.yaml --augmented --n 16 --out pictures
  tools/data.py split my.yaml --ratio 0.8,0.1,0.1 --group-by '^(seq[0-9]+)_' --out lists
  tools/data.py convert my.yaml converted            (index PNGs, the layout of folder_pairs)
  tools/data.py convert my.yaml sharded --to shards
  tools/data.py synth --layout cityscapes --n 200 --out made_up
"""
SHOWN = 1000  # samples of a split that `check` and `stats` read without --all
# the layouts that `synth` writes; named here because the help must not wait for the modules that write them
LAYOUTS = (
    *("ade20k", "camvid", "camvid_original", "cityscapes", "coco_panoptic", "coco_stuff", "folder_pairs"),
    *("image_folder", "manifest", "oxford_pets", "shards", "voc2012"),
)


def parser() -> argparse.ArgumentParser:
    """One subcommand for each thing to do with data."""
    return subcommands.parser(
        "data",
        "Look at a data set before training on it, divide it, convert it, or make one up.",
        COMMANDS,
        EXAMPLES,
    )


def _check(p: argparse.ArgumentParser) -> None:
    """files, sizes, modes, label values, missing and unreadable files, copies; ends with 2 if something is wrong"""
    _of_config(p)
    _reading(p)


def _stats(p: argparse.ArgumentParser) -> None:
    """how often each class occurs, class weights, mean and standard deviation of the images"""
    _of_config(p)
    _reading(p)


def _browse(p: argparse.ArgumentParser) -> None:
    """a contact sheet: images beside their labels, as they are or as the network sees them"""
    _of_config(p)
    p.add_argument("--n", type=positive, default=16, metavar="N", help="how many samples (16)")
    p.add_argument("--split", choices=("train", "val"), default="train", help="whose samples (train)")
    p.add_argument("--augmented", action="store_true", help="the first training batches, as the network sees them")
    p.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where the PNG file goes (here)")
    p.add_argument("--overwrite", action="store_true", help="replace a picture of the same name")


def _split(p: argparse.ArgumentParser) -> None:
    """divide the samples of a configuration into lists: by shares, classes spread evenly, groups kept together"""
    _of_config(p)
    p.add_argument("--ratio", type=ratio, default=(0.8, 0.1, 0.1), metavar="A,B,C", help="shares (0.8,0.1,0.1)")
    p.add_argument("--group-by", metavar="REGEX", help="names with the same match (of the first group) stay together")
    p.add_argument("--of", default="train,val", metavar="SPLITS", help="samples to divide: train, val or train,val")
    p.add_argument("--seed", type=int, default=0, help="of what is left to chance (0)")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="where train.txt, val.txt, test.txt go")
    p.add_argument("--overwrite", action="store_true", help="replace lists of the same name")


def _convert(p: argparse.ArgumentParser) -> None:
    """write the samples of a configuration in another layout, labels as class indices"""
    _of_config(p, "from_config", "FROM")
    p.add_argument("to", type=Path, metavar="TO", help="a folder that does not exist yet")
    p.add_argument(
        "--to", dest="layout", choices=("folder_pairs", "image_folder", "shards"), help="default: by the kind of data"
    )
    p.add_argument("--shard-mib", type=positive, default=256, metavar="MIB", help="size of a shard (256)")


def _synth(p: argparse.ArgumentParser) -> None:
    """write generated street scenes in the layout of a known data set"""
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that does not exist yet")
    p.add_argument("--n", type=positive, default=200, metavar="N", help="training scenes; a quarter of it to validate")
    p.add_argument("--layout", choices=LAYOUTS, default="folder_pairs", metavar="NAME", help=", ".join(LAYOUTS))
    p.add_argument("--size", type=size, default=(96, 128), metavar="HxW", help="of the scenes in pixels (96x128)")
    p.add_argument("--seed", type=int, default=0, help="of the scenes (0)")
    add_traceback(p)


COMMANDS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "check": _check,
    "stats": _stats,
    "browse": _browse,
    "split": _split,
    "convert": _convert,
    "synth": _synth,
}


def _of_config(p: argparse.ArgumentParser, name: str = "config", shown: str = "C") -> None:
    p.add_argument(name, type=Path, metavar=shown, help="a configuration, of which data.train and data.val count")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="changes to it: data.train.root=other")
    add_modules(p)
    p.add_argument("--workers", type=int, metavar="N", help="processes that read files (default: one per processor)")
    add_traceback(p)


def _reading(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--all", action="store_true", help=f"read all samples; default: {SHOWN} of each split, evenly spread"
    )
    add_json(p)


def ratio(text: str) -> tuple[float, ...]:
    """Two or three shares that add up to 1."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) not in (2, 3) or not all(0 < share < 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"two or three shares that add up to 1 are needed (0.8,0.1,0.1), got {text!r}")
    return shares


def size(text: str) -> tuple[int, int]:
    """A height and a width of at least 16 pixels each."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and 16 <= int(part) <= 8192 for part in parts):
        raise argparse.ArgumentTypeError(f"height x width from 16 to 8192 is needed (96x128), got {text!r}")
    return int(parts[0]), int(parts[1])


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what the command needs: help must not wait for torch."""
    args = _parsed(argv)
    from segtrain.cli.common import guarded

    module = importlib.import_module(f"segtrain.cli.data.{args.command}")
    return guarded(lambda: int(module.run(args)), show_traceback=args.traceback)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    args = subcommands.parsed(parser(), argv)
    if args.command == "convert":  # argparse takes the last word for the folder
        words = [*args.overrides, str(args.to)]
        folders = [word for word in words if "=" not in word]
        if len(folders) != 1:
            parser().error(f"convert FROM TO key=value: one folder to write into is needed, got {folders}")
        args.to, args.overrides = Path(folders[0]), [word for word in words if "=" in word]
    return args
