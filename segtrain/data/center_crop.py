"""Images of one size for the evaluation of classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from segtrain.data.dataset import Dataset, Over
from segtrain.registry import DATASETS
from segtrain.task import Sample

Side = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class CenterCrop(Over):
    """The samples of a classification data set, each image cut to its middle and scaled to one size."""

    size: tuple[int, int]  # height, width
    share: float

    def __getitem__(self, index: int) -> Sample:
        sample = self.of[index]
        height, width = sample.image.shape[:2]
        factor = self.share * min(height / self.size[0], width / self.size[1])  # pixels of the image per pixel wanted
        rows, columns = (max(1, round(side * factor)) for side in self.size)
        top, left = (height - rows) // 2, (width - columns) // 2
        middle = sample.image[top : top + rows, left : left + columns]
        how = cv2.INTER_AREA if factor > 1 else cv2.INTER_LINEAR
        scaled = cv2.resize(middle, self.size[::-1], interpolation=how)
        return sample._replace(image=np.asarray(scaled, np.uint8))


@DATASETS.register("center_crop")
def center_crop(
    *,
    of: Annotated[Dataset, DATASETS],
    size: tuple[Side, Side],
    share: Annotated[float, Field(gt=0, le=1)] = 0.875,
) -> CenterCrop:
    """The middle of each image at one `size` (height, width), so that a classifier is evaluated in whole batches.

    The window has the shape of `size` and is the largest that fits, shortened to `share`: 224 of 256 is 0.875.
    """
    if of.kind != "classification":
        raise ValueError("of is a segmentation data set, which is evaluated on whole images; leave center_crop out")
    return CenterCrop(of, size, share)
