"""Modules written in Triton, which is not installed everywhere, and the device that their kernels start on."""

from __future__ import annotations

import functools
import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


GPUS = ("cuda", "meta")  # meta: tensors without numbers, to see what would be launched


@functools.cache
def triton_module(name: str) -> Any:
    """The module of this name, None where Triton is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton starts kernels on the current device, whatever their tensors are on."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()
