"""What the subcommands of `segtrain data` share: from a configuration to its data sets, and looking at them."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from segtrain.build import register_components
from segtrain.config import Component, Config, Source, load
from segtrain.data.dataset import Dataset
from segtrain.data.paths import MissingFilesError
from segtrain.data.survey import Survey, chosen, looks, processes
from segtrain.errors import DataError
from segtrain.maker import Maker

SPLITS = ("train", "val")


def opened(path: Path, args: argparse.Namespace) -> tuple[Config, Source, Maker]:
    """The configuration of a command and what makes its components."""
    register_components(args.modules)
    config, source = load(path, args.overrides)
    return config, source, Maker(source)


def component(config: Config, split: str) -> Component:
    """The data set of a split as it was configured."""
    return config.data.train if split == "train" else config.data.val


def workers(args: argparse.Namespace) -> int:
    """Processes that read files."""
    return processes() if args.workers is None else int(args.workers)


def survey(dataset: Dataset, split: str, limit: int | None, number: int) -> Survey:
    """Look at `limit` samples with `number` processes, with a progress bar on a terminal."""
    seen = Survey(dataset.labels.names, len(dataset))
    indices = chosen(len(dataset), limit)
    running = looks(dataset, indices, number if len(indices) > 16 else 0)
    bar = tqdm(running, split, len(indices), unit=" files", leave=False, disable=not sys.stderr.isatty())
    for one in bar:
        seen.add(one)
    return seen


@dataclasses.dataclass(frozen=True)
class Missing:
    """Samples of a split that lack a file."""

    each: tuple[str, ...]
    total: int  # samples that are listed
    skipped: bool  # the configuration says to leave them out


def missing_files(maker: Maker, wanted: Component) -> list[Missing]:
    """What the parts of a data set lack, also where the configuration says to leave it out."""
    found = []
    for part in _parts(wanted):
        strict = dataclasses.replace(part, params={**part.params, "missing": "error"})
        try:
            maker.make(strict)
        except DataError as error:
            if isinstance(error.__cause__, MissingFilesError):
                lacking = error.__cause__
                found.append(Missing(lacking.each, lacking.total, part.params["missing"] == "skip"))
    return found


def lenient(value: Any) -> Any:
    """The component with all samples that lack a file left out, but none that cannot be read, and without caches."""
    if isinstance(value, Component) and value.name in ("readable", "cached"):
        return lenient(value.params["of"])
    if isinstance(value, Component):
        params = {key: "skip" if key == "missing" else lenient(item) for key, item in value.params.items()}
        return dataclasses.replace(value, params=params)
    if isinstance(value, (list, tuple)):
        return type(value)(lenient(item) for item in value)
    return value


def _parts(value: Any) -> Iterator[Component]:
    """The components inside, and this one, that can be told what to do about missing files."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item)
    elif isinstance(value, Component):
        for item in value.params.values():
            yield from _parts(item)
        if "missing" in value.params:
            yield value


def section(components: dict[str, dict[str, Any]]) -> str:
    """The data sets as the section of a configuration."""
    keys = {"data": components}
    return str(yaml.dump(keys, Dumper=_Plain, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120))


class _Plain(yaml.SafeDumper):
    """Repeats what occurs twice: configurations have no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def watch(samples: Iterable[Any], total: int | None = None) -> Any:
    """The samples behind a progress bar, on a terminal."""
    return tqdm(samples, total=total, leave=False, unit=" files", disable=not sys.stderr.isatty())


def sizes(seen: Survey) -> str:
    """The sizes of the images, or from where to where they go when there are many."""
    if len(seen.sizes) <= 4:
        named = [f"{width}x{height}" for (width, height), _ in seen.sizes.most_common()]
        numbers = [f" ({count:,})" * (len(named) > 1) for _, count in seen.sizes.most_common()]
        return ", ".join(map("".join, zip(named, numbers, strict=True))) or "-"
    widths, heights = sorted(width for width, _ in seen.sizes), sorted(height for _, height in seen.sizes)
    return f"{len(seen.sizes):,} different, {widths[0]} to {widths[-1]} wide, {heights[0]} to {heights[-1]} high"
