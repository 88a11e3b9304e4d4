"""Batches on their way to the device."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from segtrain.task import Batch


@dataclass(frozen=True)
class Transfer:
    """Moves batches to a device; to a GPU on a stream of its own, so that the copy runs while the last step computes.

    The computing stream waits for the copy, the host for neither. It pays where the loader's batches are pinned.
    """

    device: torch.device
    memory_format: torch.memory_format = torch.contiguous_format
    _stream: torch.cuda.Stream | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            object.__setattr__(self, "_stream", torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]

    def __call__(self, batch: Batch) -> Batch:
        """The batch on the device."""
        if self._stream is None:
            return batch.to(self.device, self.memory_format)
        with torch.cuda.stream(self._stream):
            moved = batch.to(self.device, self.memory_format)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._stream)
        for tensor in (moved.image, moved.target):
            tensor.record_stream(computing)  # its memory is not for the next copy before the step has read it
        return moved
