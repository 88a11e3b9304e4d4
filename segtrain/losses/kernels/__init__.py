"""Fast paths behind the losses: the same numbers in fewer passes over the logits, and with less memory beside them.

A loss asks for a path for its logits; None means that the plain one is as good.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

from segtrain.losses.kernels import blocks
from segtrain.losses.kernels.maps import PixelMap

__all__ = ["PixelMap", "cross_entropy", "path"]

_SMALL = 1 << 18  # logits that stay in the cache of a CPU on the plain path as well


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap | None:
    """The map of cross entropy with labels [B, *] for logits [B, C, *] that fit each other; ε goes to all classes."""
    compiling = torch.compiler.is_compiling()  # on a CPU the compiler fuses the plain path
    if logits.dim() != 4 or (not compiling and torch.func.debug_unwrap(logits) is not logits):  # the latter: vmap
        return None
    if logits.device.type == "cpu" and not compiling and logits.shape[1] > 1 and logits.numel() >= _SMALL:
        return blocks.cross_entropy(logits, target, weight, ignore_index, smoothing)
    if logits.device.type == "cuda" and logits.dtype != torch.float64 and (gpu := _triton()) is not None:
        kernel: PixelMap = gpu.cross_entropy(logits, target, weight, ignore_index, smoothing)
        return kernel
    return None


def path(device: torch.device) -> str:
    """What computes the cross entropy of large logits on `device`, in a few words for a log."""
    if device.type == "cuda" and _triton() is not None:
        return "Triton kernels"
    return "blocks" if device.type == "cpu" else "plain torch"


@functools.cache
def _triton() -> Any:
    """The GPU's kernels, None where Triton is not installed."""
    try:
        return importlib.import_module("segtrain.losses.kernels.gpu")
    except ImportError:
        return None
