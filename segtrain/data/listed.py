"""A part of a data set, by the names of its samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from segtrain.data.combined import Concatenated, Part
from segtrain.data.dataset import Dataset
from segtrain.data.names import safe_names
from segtrain.data.pairs import Pairs
from segtrain.data.paths import find_root, read_lines, some
from segtrain.errors import DataError
from segtrain.registry import DATASETS


@DATASETS.register("listed")
def listed(*, of: Annotated[Dataset, DATASETS], files: Path) -> Part:
    """The samples of another data set that a list names, one per line, as `tools/data.py split` writes it.

    Samples are called as the files of their images without folders and extension where that is enough to tell them
    apart, otherwise with their folders.
    """
    place = find_root(files.parent, files.name, f"{files.name}, a list of names, one per line") / files.name
    lines = read_lines(place)
    names = sample_names(of)
    numbers = {name: i for i, name in enumerate(names)}
    if len(numbers) < len(names):
        twice = next(name for i, name in enumerate(names) if numbers[name] != i)
        raise DataError(f"of: several samples are called '{twice}', so a list cannot say which is meant")
    unknown = [line for line in lines if line not in numbers]
    if unknown or not lines:
        wrong = f"names {len(unknown)} of {len(lines)} samples that are not there: {some(unknown)}"
        raise DataError(f"{place} {wrong if unknown else 'is empty'}; the data set has {some(names, 3)}")
    return Part(of, tuple(numbers[line] for line in lines))


def sample_names(dataset: Dataset) -> list[str]:
    """What lists call the samples."""
    if isinstance(dataset, Concatenated):
        return [name for part in dataset.of for name in sample_names(part)]
    if isinstance(dataset, Pairs):
        stems = [pair.image.stem for pair in dataset.pairs]
        if len(set(stems)) == len(stems):
            return stems
    return safe_names(dataset)
