"""COCO panoptic: 80 kinds of things and 53 of stuff, taken as classes of pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from segtrain.data.images import check_sizes, read_image, read_mask
from segtrain.data.labels import IGNORE, LabelSpec
from segtrain.data.pairs import Pair, Pairs, existing_pairs
from segtrain.data.paths import Missing, find_root
from segtrain.errors import DataError
from segtrain.registry import DATASETS
from segtrain.task import Kind, Sample

LAYOUT = (
    "{{train,val}2017/*.jpg, annotations/panoptic_{train,val}2017.json, annotations/panoptic_{train,val}2017/*.png}"
)


class Segments(NamedTuple):
    """The segments of one image: their ids in the label file, sorted, and their train ids."""

    ids: npt.NDArray[np.int32]
    classes: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Panoptic:
    """Pairs whose masks hold segment ids, which each image maps to classes in its own way."""

    pairs: Pairs
    segments: dict[str, Segments]  # by the name of the label file
    kind: Kind = "segmentation"

    @property
    def labels(self) -> LabelSpec:
        return self.pairs.labels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        image_file, mask_file, *_ = self.pairs.pairs[index]
        image, colors = read_image(image_file), read_mask(mask_file)
        check_sizes(image, str(image_file), colors, str(mask_file))
        if colors.ndim != 3:
            raise DataError(f"{mask_file} is not RGB; segment ids are coded as R + 256 G + 65536 B")
        ids = colors.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        known = self.segments[mask_file.name]
        place = np.searchsorted(known.ids, ids).clip(max=len(known.ids) - 1)
        strange = known.ids[place] != ids
        if strange.any():
            raise DataError(
                f"{mask_file} holds segment {ids[strange][0]} ({strange.sum()} pixels of such), which is not among its "
                "segments_info; the label files and the JSON file are of different releases"
            )
        return Sample(image, known.classes[place], self.path(index))

    def path(self, index: int) -> str:
        return self.pairs.path(index)


@DATASETS.register("coco_panoptic")
def coco_panoptic(
    *,
    root: Path = Path("coco"),
    split: Literal["train", "val"] = "train",
    crowd: Literal["ignore", "keep"] = "ignore",
    missing: Missing = "error",
) -> Panoptic:
    """COCO's panoptic annotations: 133 classes in the order of their category ids, 0 is void and ignored.

    `crowd`: whether regions marked as a crowd of a thing are ignored or count as it.
    """
    name = f"panoptic_{split}2017"
    place = find_root(root, f"annotations/{name}.json", LAYOUT)
    file = place / "annotations" / f"{name}.json"
    content = _content(file)
    categories = sorted(content["categories"], key=lambda category: int(category["id"]))
    train_ids = {category["id"]: train for train, category in enumerate(categories)}
    images = {image["id"]: place / f"{split}2017" / image["file_name"] for image in content["images"]}
    pairs, segments = [], {}
    try:
        for annotation in content["annotations"]:
            mask = annotation["file_name"]
            pairs.append(Pair(images[annotation["image_id"]], place / "annotations" / name / mask))
            segments[mask] = _segments(annotation["segments_info"], train_ids, ignore_crowd=crowd == "ignore")
    except KeyError as error:
        raise DataError(f"{file} has an annotation without, or with an unknown, {error}") from error
    palette = tuple(tuple(category["color"]) for category in categories if "color" in category)
    labels = LabelSpec(tuple(category["name"] for category in categories), palette)
    return Panoptic(existing_pairs(place, pairs, missing, labels), segments)


def _content(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        lacking = {"categories", "images", "annotations"} - content.keys()
    except (ValueError, AttributeError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from error
    if lacking:
        raise DataError(f"{file} lacks {', '.join(sorted(lacking))}; needed is the JSON file of panoptic annotations")
    return content


def _segments(info: list[dict[str, Any]], train_ids: dict[int, int], *, ignore_crowd: bool) -> Segments:
    known = {0: IGNORE}  # void
    for segment in info:
        ignored = ignore_crowd and segment.get("iscrowd")
        known[segment["id"]] = IGNORE if ignored else train_ids[segment["category_id"]]
    ids = sorted(known)
    return Segments(np.array(ids, np.int32), np.array([known[i] for i in ids], np.uint8))
