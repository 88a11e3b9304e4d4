"""COCO-Stuff 164k: 80 kinds of things and 91 of stuff."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from segtrain.data.labels import IGNORE, LabelSpec
from segtrain.data.pairs import Pair, Pairs, existing_pairs
from segtrain.data.paths import Missing, find_root, image_files
from segtrain.registry import DATASETS

LAYOUT = "{images,annotations}/{train,val}2017/*.{jpg,png}"

# In the order of their values. The published list has 182 numbers, of which 11 were never used
_LIST = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage, "
    "cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, "
    "dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, "
    "fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, "
    "mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, "
    "railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, "
    "stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, "
    "wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, "
    "window-other, wood"
)
NAMES = tuple(_LIST.split(", "))
UNUSED = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
VALUES = [value for value in range(182) if value not in UNUSED]
LABELS = LabelSpec(NAMES, table={value: train for train, value in enumerate(VALUES)} | {IGNORE: IGNORE})


@DATASETS.register("coco_stuff")
def coco_stuff(
    *,
    root: Path = Path("coco_stuff"),
    split: Literal["train", "val"] = "train",
    missing: Missing = "error",
) -> Pairs:
    """COCO-Stuff with its "stuffthingmaps" in annotations/: 171 classes, 255 is unlabelled."""
    part = f"{split}2017"
    place = find_root(root, f"images/{part}", LAYOUT)
    masks = find_root(place, f"annotations/{part}", LAYOUT) / "annotations" / part
    pairs = [Pair(image, masks / f"{image.stem}.png") for image in image_files(place / "images" / part)]
    return existing_pairs(place, pairs, missing, LABELS)
