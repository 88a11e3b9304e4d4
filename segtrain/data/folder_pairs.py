"""Your own data: a folder of images and a folder of label images, paired by name."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from segtrain.data.labels import Palette, given_labels
from segtrain.data.pairs import Pair, Pairs
from segtrain.data.paths import Missing, MissingFilesError, find_root, found_in, image_files, read_lines, some
from segtrain.errors import DataError
from segtrain.registry import DATASETS

LOG = logging.getLogger(__name__)
Partners = tuple[dict[str, Path], str]
SKIP = "Set missing: skip to leave them out"


@DATASETS.register("folder_pairs")
def folder_pairs(
    *,
    root: Path,
    split: str = "train",
    images: str = "images/{split}",
    masks: str = "masks/{split}",
    ignore: str | None = None,
    image_suffix: str = "",
    mask_suffix: str = "",
    ignore_suffix: str = "",
    files: list[str] | Path | None = None,
    names: list[str] | Path | None = None,
    values: dict[int, str] | None = None,
    palette: Palette | None = None,
    missing: Missing = "error",
) -> Pairs:
    """Images and masks below `root`, paired by their names.

    `images`, `masks`, `ignore`: folders (searched with all their subfolders) or glob patterns, relative to `root`;
    {split} stands for the split. Files belong together when their names agree without extension and without
    `image_suffix`, `mask_suffix`, `ignore_suffix`: 21_training.tif and 21_manual1.gif with _training and _manual1 are
    both 21. Where an `ignore` image is 0 the labels are ignored (a field of view, a region of interest).
    `files`: only these names, as a list or as a file with one per line, below `root` or the current directory.

    What the masks hold is said in one of three ways. `names`: class indices 0, 1, …, as a list or a file like `files`;
    `values`: a table {raw value: name}, in which a name may come repeatedly and "ignore" is one; `palette`:
    {name: [r, g, b]} for RGB masks, or voc. 255 is ignored unless `values` says otherwise.
    """
    labels = given_labels(_lines(names, root) if isinstance(names, Path) else names, values, palette)
    images, masks = images.replace("{split}", split), masks.replace("{split}", split)
    place = find_root(root, _fixed(images), f"{images}, {masks}")
    find_root(place, _fixed(masks), f"{images}, {masks}")
    found, targets = by_name(place, images, image_suffix), by_name(place, masks, mask_suffix)
    if not found:
        raise DataError(
            f"{place / images} holds no images{f' named *{image_suffix}' * bool(image_suffix)}. {found_in(place)}"
        )
    valid = by_name(place, ignore.replace("{split}", split), ignore_suffix) if ignore else {}
    wanted = _wanted(files, found, place)
    without = {name for name in wanted if name not in targets or (ignore and name not in valid)}
    if without and missing == "error":
        ignored = (valid, f"{ignore.replace('{split}', split)}/{{}}{ignore_suffix}.*") if ignore else None
        raise _unpaired(found, wanted, sorted(without), (targets, f"{masks}/{{}}{mask_suffix}.*"), ignored)
    kept = [Pair(found[name], targets[name], valid.get(name)) for name in wanted if name not in without]
    if not kept:
        raise DataError(
            f"{place}: none of the {len(wanted)} images in {images} has a mask in {masks}. {found_in(place)}"
        )
    if without:
        LOG.info(
            "%s: %d of %d images have no mask and are left out: %s",
            *(place, len(without), len(wanted), some(sorted(without))),
        )
    return Pairs(place, tuple(kept), labels)


def _fixed(pattern: str) -> str:
    """The folders before the first wildcard."""
    parts = Path(pattern).parts
    return str(Path(*itertools.takewhile(lambda part: not set("*?[") & set(part), parts)))


def by_name(root: Path, where: str, suffix: str) -> dict[str, Path]:
    """Files by what they have in common with their partners: the path below the folder, or the name under a pattern."""
    folder = root / where
    if folder.is_dir():
        names = {path: path.relative_to(folder).with_suffix("").as_posix() for path in image_files(folder)}
    else:
        names = {path: path.stem for path in sorted(root.glob(where))}
    named = {name: path for path, name in names.items()}
    for path, name in names.items():
        if named[name] != path:
            raise DataError(
                f"{path} and {named[name]} have one name, so nobody can say which is meant; rename one of them, or let "
                "images and masks be a pattern such as images/*.jpg that matches only one"
            )
    return {name.removesuffix(suffix): path for name, path in named.items() if name.endswith(suffix)}


def _wanted(files: list[str] | Path | None, found: dict[str, Path], root: Path) -> list[str]:
    if files is None:
        return list(found)
    wanted = files if isinstance(files, list) else _lines(files, root)
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise DataError(f"{root}: {len(unknown)} of the {len(wanted)} names in files have no image: {some(unknown)}")
    return wanted


def _lines(file: Path, root: Path) -> list[str]:
    """Those of a list, which lies below `root` or in the current directory, as `segtrain data split` writes it."""
    if file.is_file() and not (root / file).exists():
        return read_lines(file)
    return read_lines(find_root(root, str(file), f"{file}, a list; a single name stands in brackets: [{file}]") / file)


def _unpaired(
    images: dict[str, Path], wanted: list[str], without: list[str], masks: Partners, ignored: Partners | None
) -> MissingFilesError:
    """Each partner comes with a pattern of what it would be called."""
    named, kinds = list[str](), set[str]()
    for name in without:
        files, pattern = masks if name not in masks[0] or ignored is None else ignored
        named.append(f"{images[name].name} (looked for {pattern.format(name)})")
        kinds.add("mask" if files is masks[0] else "image of what to ignore")
    spare = len(masks[0].keys() - images.keys())
    others = f"; {spare} masks have no image" if spare else ""
    longer, shorter = _tail(without, masks[0]), _tail(list(masks[0]), without)
    cure = f"set mask_suffix: {longer}" if longer else f"set image_suffix: {shorter}" if shorter else ""
    return MissingFilesError(
        f"{len(without)} of {len(wanted)} images have no {' or '.join(sorted(kinds, reverse=True))}: "
        f"{some(named)}{others}. {f'If {longer or shorter} is no part of the names, {cure}' if cure else SKIP}",
        each=named,
        total=len(wanted),
    )


def _tail(names: list[str], others: Iterable[str]) -> str:
    """What `others` are called beyond the names that they begin with, where that is one thing for most of the names."""
    some_names = names[:50]
    tails = Counter(other[len(name) :] for other in others for name in some_names if other.startswith(name))
    tail, count = max(tails.items(), key=lambda item: item[1], default=("", 0))
    return tail if count > len(some_names) / 2 else ""
