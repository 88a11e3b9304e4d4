"""`segtrain data convert`: the samples of a configuration in another layout, their labels as class indices."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from segtrain.cli.data.common import SPLITS, component, opened, section, watch, workers
from segtrain.cli.folders import new_folder
from segtrain.data.dataset import Dataset
from segtrain.data.export import folder_names, write_folder_pairs, write_image_folder
from segtrain.data.folder_pairs import folder_pairs
from segtrain.data.image_folder import image_folder
from segtrain.data.names import safe_names
from segtrain.data.shard_files import write_shards
from segtrain.data.shards import shards
from segtrain.data.survey import chosen
from segtrain.errors import ConfigError, DataError
from segtrain.task import Sample

COMPARED = 16  # samples of a split that are read back
MIXED = 0  # the seed by which training samples are mixed in shards


def run(args: argparse.Namespace) -> int:
    """Write, read back a part, and say how to use it."""
    config, _, maker = opened(args.from_config, args)
    layout = args.layout or ("folder_pairs" if config.task == "segmentation" else "image_folder")
    if layout == {"segmentation": "image_folder", "classification": "folder_pairs"}[config.task]:
        fit = "folder_pairs" if config.task == "segmentation" else "image_folder"
        raise ConfigError(f"--to {layout} does not hold data for {config.task}; --to {fit} and --to shards do")
    datasets: dict[str, Dataset] = {split: maker.make(component(config, split)) for split in SPLITS}
    told, components = list[str](), dict[str, dict[str, Any]]()
    with new_folder(args.to) as folder:
        for split, dataset in datasets.items():
            _write(layout, folder, split, dataset, args)
            components[split], written = _reading(layout, folder, split, dataset)
            told.append(f"{split} {len(dataset):,} samples, {_compare(dataset, written, layout, split)}")
            components[split]["root"] = str(args.to)
        (folder / "data.yaml").write_text(section(components), encoding="utf-8")
    print(f"{args.to}: {' · '.join(told)}, as {layout}")
    if layout == "image_folder" and folder_names(datasets["train"].labels.names) != [*datasets["train"].labels.names]:
        print("note: classes whose names cannot be folders have changed them, see classes.json")
    print(f"A configuration reads them with (also in {args.to / 'data.yaml'}):\n{section(components)}", end="")
    return 0


def _write(layout: str, folder: Path, split: str, dataset: Dataset, args: argparse.Namespace) -> None:
    if layout == "shards":
        seed = MIXED if split == "train" else None
        write_shards(folder, split, dataset, shard_bytes=args.shard_mib << 20, seed=seed, watch=watch)
    else:
        write = write_folder_pairs if layout == "folder_pairs" else write_image_folder
        write(folder, split, dataset, watch, max(1, workers(args)))


def _reading(layout: str, folder: Path, split: str, dataset: Dataset) -> tuple[dict[str, Any], Dataset]:
    """The component that reads what was written, and what it reads."""
    if layout == "shards":
        return {"name": "shards", "root": "", "split": split}, shards(root=folder.absolute(), split=split)
    if layout == "image_folder":
        read = image_folder(root=folder.absolute(), split=split)
        return {"name": "image_folder", "root": "", "split": split}, read
    names = list(dataset.labels.names)
    palette = dict(zip(names, dataset.labels.palette, strict=True))
    keys: dict[str, Any] = {"split": split, "names": names, "palette": palette}
    written = folder_pairs(root=folder.absolute(), **keys)
    plain = {name: list(color) for name, color in palette.items()}
    return {"name": "folder_pairs", "root": "", **keys, "palette": plain}, written


def _compare(dataset: Dataset, written: Dataset, layout: str, split: str) -> str:
    """Read some of the samples back. Raises DataError if they are not what they were."""
    if len(dataset) != len(written):
        raise DataError(f"{split}: {len(dataset):,} samples were written, but {len(written):,} are read back")
    some = chosen(len(dataset), COMPARED)
    find = (
        _find_in_shards(len(dataset), split) if layout == "shards" else _find_by_name(dataset, written, layout, split)
    )
    for index in some:
        before = dataset[index]
        after = written[find(index, before)]
        if not (_same(before.image, after.image) and _same(before.target, after.target)):
            raise DataError(f"{split}: {before.id} was not written as it was read")
    return f"{len(some)} read back: identical"


def _find_in_shards(length: int, split: str) -> Callable[[int, Sample], int]:
    places = np.argsort(np.random.default_rng(MIXED).permutation(length)) if split == "train" else np.arange(length)
    return lambda index, sample: int(places[index])


def _find_by_name(dataset: Dataset, written: Dataset, layout: str, split: str) -> Callable[[int, Sample], int]:
    names, classes = safe_names(dataset), folder_names(dataset.labels.names)
    places = {PurePosixPath(written.path(i)).with_suffix(""): i for i in range(len(written))}

    def find(index: int, sample: Sample) -> int:
        if layout == "folder_pairs":
            return places[PurePosixPath("images", split, names[index])]
        return places[PurePosixPath(split, classes[int(sample.target)], names[index].replace("/", "_"))]

    return find


def _same(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> bool:
    return before.shape == after.shape and bool((before == after).all())
