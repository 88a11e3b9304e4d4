"""What each loader process is reading, so that the file behind one that dies or hangs can be named."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info


class HasSample(Protocol):
    """What to load."""

    @property
    def sample(self) -> int: ...


@dataclass(frozen=True)
class Noted(Dataset[Any]):
    """`dataset`, of which each loader process notes what it reads before it does, in memory shared with the trainer."""

    dataset: Dataset[Any]
    workers: int
    notes: Tensor = field(init=False)  # int64 [workers, 2]: the process, and the sample + 1, or 0 between samples

    def __post_init__(self) -> None:
        notes = torch.zeros(self.workers, 2, dtype=torch.int64)
        object.__setattr__(self, "notes", notes.share_memory_() if self.workers else notes)  # type: ignore[no-untyped-call]

    def __getitem__(self, key: HasSample) -> Any:
        worker = get_worker_info()
        if worker is None:
            return self.dataset[key]
        self.notes[worker.id] = torch.tensor([os.getpid(), key.sample + 1])
        try:
            return self.dataset[key]
        finally:
            self.notes[worker.id, 1] = 0

    def in_hand(self, *, of_the_dead: bool) -> list[int]:
        """The samples that processes have begun to read and not finished; those that have ended, or all."""
        return [
            sample - 1 for process, sample in self.notes.tolist() if sample and not (of_the_dead and exists(process))
        ]


def exists(process: int) -> bool:
    """Whether there is such a process of this user."""
    try:
        os.kill(process, 0)
    except OSError:  # none, or its number is now another user's
        return False
    return True
