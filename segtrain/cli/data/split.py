"""`segtrain data split`: lists of samples for training, validation and test."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segtrain.cli.data.common import SPLITS, component, opened, section, workers
from segtrain.cli.folders import write_files
from segtrain.cli.tables import percent, table
from segtrain.config import Component, Config
from segtrain.config.reader import read
from segtrain.config.signatures import component_keys
from segtrain.config.writer import plain_config
from segtrain.data.check import WITHOUT_THEM
from segtrain.data.dataset import Dataset
from segtrain.data.division import divided
from segtrain.data.folder_pairs import by_name
from segtrain.data.listed import sample_names
from segtrain.data.pairs import Pairs
from segtrain.data.sources import origin
from segtrain.data.survey import looks
from segtrain.errors import ConfigError, DataError
from segtrain.maker import Maker

PARTS = ("train", "val", "test")


def run(args: argparse.Namespace) -> int:
    """Divide, write the lists, show what is in them."""
    if args.of == "train" and _lacks_val(args.config):
        args.overrides = ["data.val.name=scenes", *args.overrides]  # stands in for what is about to be divided off
    config, _, maker = opened(args.config, args)
    names, presence, classes = _samples(config, maker, args)
    groups = [_group(args.group_by, name) for name in names] if args.group_by else None
    parts = divided(presence, args.ratio, groups=groups, seed=args.seed)
    lists = {f"{part}.txt": [names[i] for i in members] for part, members in zip(PARTS, parts, strict=False)}
    empty = [name for name, members in lists.items() if not members]
    if empty:
        raise DataError(f"{empty[0]} would be empty: {len(names)} samples in {_number(groups, names)} are too few")
    contents = {name: "".join(f"{line}\n" for line in members).encode() for name, members in lists.items()}
    write_files(args.out, contents, overwrite=args.overwrite)
    print("\n".join(_told(parts, presence, classes, groups)))
    print(f"lists are in {args.out}; {_use(config, args)}", end="")
    return 0


def _lacks_val(path: Path) -> bool:
    sections = read(path).value
    data = sections.get("data") if isinstance(sections, dict) else None
    return data is not None and isinstance(data.value, dict) and "val" not in data.value


def _use(config: Config, args: argparse.Namespace) -> str:
    """How a configuration names the lists: by its own key `files`, or around what was divided."""
    divided = [component(config, split) for split in args.of.split(",")]
    lists = {split: str((args.out / f"{split}.txt").absolute()) for split in SPLITS}
    if all("files" in part.params for part in divided):
        named = {split: _given(divided[0]) | {"files": file} for split, file in lists.items()}
        return f"to train on them:\n{section(named)}"
    parts = [_given(part) for part in divided]
    whole = parts[0] if len(parts) == 1 else {"name": "concat", "of": parts}
    components = {split: {"name": "listed", "files": file, "of": whole} for split, file in lists.items()}
    return f"to train on them:\n{section(components)}"


def _given(part: Component) -> dict[str, Any]:
    """The data set as a configuration would name it, without what is the default anyway."""
    keys = component_keys(part.registry[part.name])
    written: dict[str, Any] = plain_config(part)
    usual = {key for key, value in part.params.items() if value == keys[key].default}
    inner = {key: _given(value) for key, value in part.params.items() if isinstance(value, Component)}
    return {key: value for key, value in (written | inner).items() if key not in usual}


def _samples(
    config: Config, maker: Maker, args: argparse.Namespace
) -> tuple[list[str], npt.NDArray[np.bool_], tuple[str, ...]]:
    """Names and classes of all samples of the splits that are to be divided, each once."""
    wanted = args.of.split(",")
    if not wanted or set(wanted) - set(SPLITS):
        raise ConfigError(f"--of {args.of}: give train, val or train,val")
    places = {_folder(component(config, split)) for split in wanted}
    if len(places) > 1:
        raise ConfigError(
            f"--of {args.of}: the samples lie in {' and '.join(sorted(places))}, but a list is of one: --of train"
        )
    found, images = dict[str, npt.NDArray[np.bool_]](), dict[str, Path | str]()
    for split in wanted:
        part = component(config, split)
        dataset: Dataset = maker.make(part)
        seen = looks(dataset, range(len(dataset)), workers(args) if len(dataset) > 16 else 0)
        for i, (name, one) in enumerate(zip(_names(part, dataset), seen, strict=True)):
            if one.pixels is None:
                raise DataError(*one.errors, f"to divide the others: {WITHOUT_THEM}")
            image = origin(dataset, i).image or dataset.path(i)
            if name in found and images[name] != image:
                raise DataError(
                    f"--of {args.of}: {images[name]} and {image} would both be called '{name}' in a list; --of train"
                )
            found[name], images[name] = one.pixels > 0, image
    return list(found), np.stack(list(found.values())), dataset.labels.names


def _names(part: Component, dataset: Dataset) -> list[str]:
    """What lists call the samples: in folder_pairs the part of their names that image and mask share."""
    if part.name == "folder_pairs" and isinstance(dataset, Pairs):
        keys: Mapping[str, Any] = part.params
        known = {path: name for name, path in by_name(dataset.root, _folder(part), keys["image_suffix"]).items()}
        return [known[pair.image] for pair in dataset.pairs]
    return sample_names(dataset)


def _folder(part: Component) -> str:
    """Where folder_pairs finds the images; nothing for other data sets."""
    return str(part.params.get("images", "")).replace("{split}", str(part.params.get("split", "")))


def _group(pattern: str, name: str) -> str:
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise ConfigError(f"--group-by {pattern}: not a regular expression: {error}") from error
    if match is None:
        raise ConfigError(f"--group-by {pattern} does not match '{name}'; every name has to belong to a group")
    return (match.group(1) if match.re.groups else match.group(0)) or ""


def _number(groups: list[str] | None, names: list[str]) -> str:
    return f"{len(names)} samples" if groups is None else f"{len(set(groups))} groups"


def _told(
    parts: list[list[int]], presence: npt.NDArray[np.bool_], classes: tuple[str, ...], groups: list[str] | None
) -> list[str]:
    head = PARTS[: len(parts)]
    rows = [["", *head], ["samples", *(f"{len(part):,} ({percent(len(part), len(presence))})" for part in parts)]]
    if groups is not None:
        rows.append(["groups", *(f"{len({groups[i] for i in part}):,}" for part in parts)])
    held = presence.sum(0)
    shown = [k for k in range(len(classes)) if held[k]]
    for k in shown if len(shown) <= 40 else []:
        rows.append([f"with {classes[k]}", *(f"{presence[part, k].sum():,}" for part in parts)])
    lines = table(rows, "<" + ">" * len(parts))
    for number, name in enumerate(head):
        lacking = [classes[k] for k in shown if not presence[parts[number], k].any()]
        if lacking:
            lines.append(f"note: {name} has nothing of {', '.join(lacking[:8])}{', …' * (len(lacking) > 8)}")
    return lines
