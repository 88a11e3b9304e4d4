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
from segtrain.losses.upsampling import Logits, Upsampled

__all__ = ["PixelMap", "cross_entropy", "path"]

_SMALL = 1 << 18  # logits that stay in the cache of a CPU on the plain path as well


def cross_entropy(
    logits: Logits, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap | None:
    """The map of cross entropy with labels [B, *] for logits [B, C, *] that fit each other; ε goes to all classes."""
    compiling = torch.compiler.is_compiling()  # on a CPU the compiler fuses the plain path
    low = logits.low if isinstance(logits, Upsampled) else logits
    if low.dim() != 4 or (not compiling and torch.func.debug_unwrap(low) is not low):  # the latter: vmap
        return None
    if low.device.type == "cpu":
        large = logits.shape[1] > 1 and logits.shape.numel() >= _SMALL
        if compiling or not large or (low is not logits and not _is_finite(low)):
            return None
        return blocks.cross_entropy(logits, target, weight, ignore_index, smoothing)
    if isinstance(logits, Upsampled):
        return None
    if logits.device.type == "cuda" and logits.dtype != torch.float64 and (gpu := _triton()) is not None:
        kernel: PixelMap = gpu.cross_entropy(logits, target, weight, ignore_index, smoothing)
        return kernel
    return None


def path(device: torch.device) -> str:
    """What computes the cross entropy of large logits on `device`, in a few words for a log."""
    if device.type == "cuda" and _triton() is not None:
        return "Triton kernels"
    return "blocks" if device.type == "cpu" else "plain torch"


def _is_finite(low: Tensor) -> bool:
    """A block is interpolated by products of matrices, in which one NaN would reach pixels that are far from it."""
    return bool(low.detach().sum(dtype=torch.float64).isfinite())


@functools.cache
def _triton() -> Any:
    """The GPU's kernels, None where Triton is not installed."""
    try:
        return importlib.import_module("segtrain.losses.kernels.gpu")
    except ImportError:
        return None
