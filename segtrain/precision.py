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
    """`auto` is bf16 on GPUs and CPUs that compute with it, fp16 on older GPUs, off on older CPUs."""
    if amp == "auto":
        if device.type == "cpu":
            amp = "bf16" if _cpu_has_bf16() else "off"
        else:
            amp = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if amp == "fp16" and device.type == "cpu":
        raise ConfigError("train.amp: fp16 is not supported on cpu; use bf16 or off")
    return Precision(device, amp)


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16; others convert, which is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def fast_math(device: torch.device) -> None:
    """Settings of the process that make a GPU fast; without effect on a CPU.

    What is left in float32 is multiplied in TF32, and cuDNN tries its algorithms on each new shape of a convolution,
    which pays because training has one.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
