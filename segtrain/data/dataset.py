"""What every data set offers to the loaders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from segtrain.data.labels import LabelSpec
from segtrain.task import Kind, Sample


class Dataset(Protocol):
    """Samples by index: decoded, in train ids, not augmented. Reading one twice gives the same.

    `len()` and `[index]` as of a sequence; DataError for a file that cannot be read, with its path.
    """

    @property
    def labels(self) -> LabelSpec:
        """The classes, and what decides which of them a raw value is."""
        ...

    @property
    def kind(self) -> Kind:
        """Whether a target is a label map or one label."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def path(self, index: int) -> str:
        """Names the sample in messages without reading it: its file, or what stands for one."""
        ...


@dataclass(frozen=True)
class Over:
    """A data set over another one: what it does not say of itself is as in the other. It adds how samples are read."""

    of: Dataset

    @property
    def labels(self) -> LabelSpec:
        return self.of.labels

    @property
    def kind(self) -> Kind:
        return self.of.kind

    def __len__(self) -> int:
        return len(self.of)

    def path(self, index: int) -> str:
        return self.of.path(index)
