"""Oxford-IIIT Pet: cats and dogs of 37 breeds, with their outlines."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from segtrain.data.labelled import Labelled, LabelledImages, existing_images
from segtrain.data.labels import IGNORE_NAME, from_values
from segtrain.data.pairs import Pair, Pairs, existing_pairs
from segtrain.data.paths import Missing, find_root, read_lines
from segtrain.errors import DataError
from segtrain.registry import DATASETS

LAYOUT = "{images/*.jpg, annotations/{trainval,test}.txt, annotations/trimaps/*.png}"


@DATASETS.register("oxford_pets")
def oxford_pets(
    *,
    root: Path = Path("oxford-iiit-pet"),
    split: Literal["trainval", "test"] = "trainval",
    target: Literal["trimap", "breed"] = "trimap",
    border: Literal["ignore", "class"] = "ignore",
    missing: Missing = "error",
) -> Pairs | LabelledImages:
    """Pets: `trimap` for segmentation into background and pet, `breed` for classification.

    `border`: what becomes of the undecided pixels around a pet.
    """
    place = find_root(root, "annotations", LAYOUT)
    listing = place / "annotations" / f"{split}.txt"
    rows = [line.split() for line in read_lines(listing) if not line.startswith("#")]
    if not rows or not all(len(row) == 4 and row[1].isdigit() for row in rows):
        raise DataError(f"{listing} has lines that are not 'Id CLASS SPECIES BREED'")
    images = [place / "images" / f"{row[0]}.jpg" for row in rows]
    if target == "breed":
        breeds = {int(row[1]): row[0].rpartition("_")[0] for row in rows}
        if sorted(breeds) != list(range(1, len(breeds) + 1)):
            raise DataError(f"{listing} does not have every class from 1 to {max(breeds)}")
        items = [Labelled(image, int(row[1]) - 1) for image, row in zip(images, rows, strict=True)]
        return existing_images(place, items, tuple(breeds[i] for i in sorted(breeds)), missing)
    masks = [place / "annotations" / "trimaps" / f"{image.stem}.png" for image in images]
    labels = from_values({2: "background", 1: "pet", 3: IGNORE_NAME if border == "ignore" else "border"})
    return existing_pairs(
        place, [Pair(image, mask) for image, mask in zip(images, masks, strict=True)], missing, labels
    )
