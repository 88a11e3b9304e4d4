"""An own data set: a folder of .npz files, each with `image` uint8 [H, W, 3] (RGB) and `mask` uint8 [H, W]."""

from pathlib import Path

import numpy as np

from segtrain.data.labels import LabelSpec
from segtrain.registry import DATASETS
from segtrain.task import Kind, Sample


@DATASETS.register("npz_folder")
class NpzFolder:
    """Masks hold the numbers of `names`, from 0 on, and 255 where nothing counts."""

    kind: Kind = "segmentation"

    def __init__(self, *, root: Path, names: list[str]) -> None:
        self.labels = LabelSpec(tuple(names))
        self.files = sorted(root.glob("*.npz"))
        if not self.files:
            raise ValueError(f"root {root} holds no .npz files")  # told with the place in the configuration

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        with np.load(self.files[index]) as file:
            return Sample(file["image"], file["mask"], self.files[index].name)

    def path(self, index: int) -> str:
        """What messages call the sample."""
        return str(self.files[index])
