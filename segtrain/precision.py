"""Mixed precision: what the forward pass computes in, and the scaler that fp16 gradients need."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from segtrain.errors import ConfigError

Amp = Literal["auto", "off", "bf16", "fp16"]
_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """`amp` is resolved: off, bf16 or fp16."""

    device: torch.device
    amp: Amp

    @property
    def dtype(self) -> torch.dtype | None:
        return _DTYPES[self.amp]

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass; without effect when off."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler, without effect unless fp16 needs one."""
        return torch.amp.GradScaler(self.device.type, enabled=self.amp == "fp16")


def precision(amp: Amp, device: torch.device) -> Precision:
    """`auto` is bf16 on GPUs that have it, fp16 on older ones, off on CPUs (which gain only where they have AMX)."""
    if amp == "auto":
        amp = "off" if device.type == "cpu" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if amp == "fp16" and device.type == "cpu":
        raise ConfigError("train.amp: fp16 is not supported on cpu; use bf16 or off")
    return Precision(device, amp)
