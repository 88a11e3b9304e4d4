"""Cityscapes: 19 classes of street scenes, fine and coarse annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from segtrain.data.labels import IGNORE, LabelSpec
from segtrain.data.pairs import Pair, Pairs, existing_pairs
from segtrain.data.paths import Missing, find_root
from segtrain.registry import DATASETS
from segtrain.task import Color

# name → id in the label files, colour; in the order of the train ids
CLASSES: dict[str, tuple[int, Color]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
NAMES, PALETTE = tuple(CLASSES), tuple(color for _, color in CLASSES.values())
IDS = {raw: train for train, (raw, _) in enumerate(CLASSES.values())}
NOT_EVALUATED = {raw: IGNORE for raw in (*range(34), 255) if raw not in IDS}  # 255 is the licence plate's -1
LABELS = {"labelIds": LabelSpec(NAMES, PALETTE, IDS | NOT_EVALUATED), "labelTrainIds": LabelSpec(NAMES, PALETTE)}


@DATASETS.register("cityscapes")
def cityscapes(
    *,
    root: Path = Path("cityscapes"),
    split: Literal["train", "val", "train_extra"] = "train",
    annotations: Literal["fine", "coarse"] = "fine",
    files: Literal["labelIds", "labelTrainIds"] = "labelIds",
    missing: Missing = "error",
) -> Pairs:
    """Cityscapes as it is unpacked; the ids are mapped on reading, so nothing has to be converted before.

    `train_extra` has coarse annotations only. `files`: labelTrainIds are what the authors' script writes. The labels
    of the test images are dummies, so that split is not offered.
    """
    kind = "gtFine" if annotations == "fine" else "gtCoarse"
    layout = f"{{leftImg8bit,{kind}}}/{split}/<city>/…"
    place = find_root(root, f"leftImg8bit/{split}", layout)
    find_root(place, f"{kind}/{split}", layout)
    pairs = []
    for image in sorted((place / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
        name = image.name.removesuffix("leftImg8bit.png") + f"{kind}_{files}.png"
        pairs.append(Pair(image, place / kind / split / image.parent.name / name))
    return existing_pairs(place, pairs, missing, LABELS[files])
