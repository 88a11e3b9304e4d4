"""Any data set written as plain folders: images with index PNGs, or images in one folder per class."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from segtrain.data.dataset import Dataset
from segtrain.data.encode import index_png, png
from segtrain.data.image_folder import CLASSES
from segtrain.data.images import SUFFIXES
from segtrain.data.names import safe_names
from segtrain.data.sources import origin

Watch = Callable[[Iterable[Any]], Any]


def write_folder_pairs(folder: Path, split: str, dataset: Dataset, watch: Watch, threads: int = 4) -> None:
    """images/{split}/… and masks/{split}/…: train ids as palette PNGs, 255 where they are ignored."""

    def write(index: int, name: str) -> None:
        _write_image(dataset, index, folder / "images" / split, name)
        mask = index_png(dataset[index].target, dataset.labels.palette)
        _write(folder / "masks" / split / f"{name}.png", mask)

    _each(write, safe_names(dataset), watch, threads)


def write_image_folder(folder: Path, split: str, dataset: Dataset, watch: Watch, threads: int = 4) -> None:
    """{split}/{class}/… and classes.json, which keeps the order of the classes and those without images."""
    classes = folder_names(dataset.labels.names)

    def write(index: int, name: str) -> None:
        label = int(dataset[index].target)
        if label != dataset.labels.ignore_index:
            _write_image(dataset, index, folder / split / classes[label], name.replace("/", "_"))

    (folder / split).mkdir(parents=True, exist_ok=True)
    _each(write, safe_names(dataset), watch, threads)
    _write(folder / CLASSES, json.dumps(classes, ensure_ascii=False, indent=1).encode())


def folder_names(classes: Iterable[str]) -> list[str]:
    """Class names that can be names of folders: "Ram C/V Cargo Van" is Ram C_V Cargo Van."""
    return [re.sub(r"[/\\:*?\"<>|\x00-\x1f]", "_", name).lstrip(". ") or "_" for name in classes]


def _write_image(dataset: Dataset, index: int, folder: Path, name: str) -> None:
    """The bytes of the file where they are the whole image, a PNG otherwise."""
    files = origin(dataset, index)
    if files.image is not None and files.whole and files.image.suffix.lower() in SUFFIXES:
        _write(folder / f"{name}{files.image.suffix.lower()}", files.image.read_bytes())
    else:
        _write(folder / f"{name}.png", png(dataset[index].image))


def _each(write: Callable[[int, str], None], names: list[str], watch: Watch, threads: int) -> None:
    """Decoding and compressing let other threads run, so several samples are written at a time."""
    with ThreadPoolExecutor(threads) as pool:
        try:
            for done in watch([pool.submit(write, index, name) for index, name in enumerate(names)]):
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
