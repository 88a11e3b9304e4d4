"""What every data set offers to the loaders."""

from __future__ import annotations

from typing import Protocol

from segtrain.data.labels import LabelSpec
from segtrain.task import Kind, Sample


class Dataset(Protocol):
    """Samples by index: decoded, in train ids, not augmented. Reading one twice gives the same."""

    @property
    def labels(self) -> LabelSpec: ...

    @property
    def kind(self) -> Kind: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def path(self, index: int) -> str:
        """Names the sample in messages without reading it: its file, or what stands for one."""
        ...
