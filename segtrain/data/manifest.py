"""Your own data as a table: a CSV file that lists images with their masks or their classes."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from segtrain.data.labelled import Labelled, LabelledImages, existing_images
from segtrain.data.labels import Palette, given_labels
from segtrain.data.pairs import Pair, Pairs, existing_pairs
from segtrain.data.paths import Missing, find_root, some
from segtrain.errors import DataError
from segtrain.registry import DATASETS


@DATASETS.register("manifest")
def manifest(
    *,
    file: Path,
    split: str | None = None,
    names: list[str] | None = None,
    values: dict[int, str] | None = None,
    palette: Palette | None = None,
    missing: Missing = "error",
) -> Pairs | LabelledImages:
    """The rows of a CSV file with a header: `image,mask` for segmentation, `image,label` for classification.

    Paths are relative to the file. With a column `split`, only rows of this split are taken; without one, give each
    split a file of its own. With a column `weight`, training draws a sample of weight 3 three times as often as one of
    weight 1, and one of weight 0 never. Other columns are not read. Masks are described by `names`, `values` and
    `palette` as in folder_pairs; labels are class names, sorted, or in the order of `names`.
    """
    place = find_root(file.parent, file.name, f"{file.name} with the columns image,mask or image,label")
    rows = _rows(place / file.name)
    if split is not None and "split" not in rows[0]:
        raise DataError(f"{place / file.name} has no column split; leave split out, or add the column")
    chosen = [row for row in rows if split in (None, row.get("split"))]
    if not chosen:
        splits = sorted({row["split"] for row in rows})
        raise DataError(f"{place / file.name} has no row of split '{split}'; there are {some(splits)}")
    weights = _weights(chosen, place / file.name)
    if "mask" in rows[0]:
        pairs = [
            Pair(place / row["image"], place / row["mask"], weight=weight)
            for row, weight in zip(chosen, weights, strict=True)
        ]
        return existing_pairs(place, pairs, missing, given_labels(names, values, palette))
    if values or palette:
        raise ValueError("values and palette are for masks, but the table has labels; give names, or nothing")
    classes = tuple(names or sorted({row["label"] for row in rows}))
    strange = sorted({row["label"] for row in chosen} - set(classes))
    if strange:
        raise DataError(f"{place / file.name} has labels that are not among names: {some(strange)}")
    items = [
        Labelled(place / row["image"], classes.index(row["label"]), weight=weight)
        for row, weight in zip(chosen, weights, strict=True)
    ]
    return existing_images(place, items, classes, missing)


def _weights(rows: list[dict[str, str]], file: Path) -> list[float]:
    if "weight" not in rows[0]:
        return [1.0] * len(rows)
    weights = []
    for row in rows:
        try:
            weights.append(float(row["weight"]))
        except ValueError:
            weights.append(math.nan)
        if not (math.isfinite(weights[-1]) and weights[-1] >= 0):
            raise DataError(f"{file}: {row['image']} has the weight '{row['weight']}'; needed is a number from 0 on")
    if not sum(weights):
        raise DataError(f"{file}: the weights of all {len(rows)} rows are 0, so nothing would ever be drawn")
    return weights


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.reader(lines, skipinitialspace=True, strict=True)
            columns = next(table, [])
            cells = [(table.line_num, row) for row in table if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as CSV: {error}") from error
    needed = "needed are image and one of mask and label, in a first line such as image,mask,split"
    if not columns:
        raise DataError(f"{file} is empty; {needed}")
    if "image" not in columns or ("mask" in columns) == ("label" in columns):
        raise DataError(f"{file} has the columns {', '.join(columns)}; {needed}, separated by commas")
    if twice := [column for column in columns if columns.count(column) > 1]:
        raise DataError(f"{file} has several columns called {twice[0]}; which one is meant? Rename the others")
    if not cells:
        raise DataError(f"{file} has a header and no rows")
    return [_row(file, line, columns, row) for line, row in cells]


def _row(file: Path, line: int, columns: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(columns):
        raise DataError(
            f"{file}:{line} has {len(cells)} cells, the header has {len(columns)}: {some(cells, 8)}; a comma within a "
            'cell needs quotes: "a, b.png"'
        )
    row = dict(zip(columns, cells, strict=True))
    for column in ("image", "mask", "label"):
        if row.get(column) == "":
            raise DataError(f"{file}:{line} has no {column}; leave the row out, or fill it in")
    return row
