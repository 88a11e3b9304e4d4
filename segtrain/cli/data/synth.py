"""`segtrain data synth`: generated street scenes in the layout of a known data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from segtrain.cli.data.common import section, watch
from segtrain.cli.folders import new_folder
from segtrain.data.layouts import reading, write_scenes
from segtrain.data.scenes import Scenes
from segtrain.data.shard_files import write_shards


def run(args: argparse.Namespace) -> int:
    """Write the scenes and say how to read them."""
    scenes = {
        "train": Scenes("train", args.n, args.size, args.seed),
        "val": Scenes("val", max(1, args.n // 4), args.size, args.seed),
    }

    root = str(args.out)
    if args.layout == "shards":
        components = {split: {"name": "shards", "root": root, "split": split} for split in scenes}
    else:
        components = {split: reading(args.layout, root, split) for split in scenes}
    with new_folder(args.out) as folder:
        if args.layout == "shards":
            for split, source in scenes.items():
                write_shards(folder, split, source, watch=watch)
        else:
            write_scenes(folder, args.layout, scenes, watch)
        told = section(components)
        Path(folder, "data.yaml").write_text(told, encoding="utf-8")
    print(
        f"{args.out}: {len(scenes['train']):,} scenes to train on, {len(scenes['val']):,} to validate, as {args.layout}"
    )
    print(f"A configuration reads them with (also in {args.out / 'data.yaml'}):\n{told}", end="")
    return 0
