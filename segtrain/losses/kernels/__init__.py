"""Fast paths behind the losses: the same numbers in fewer passes over the logits, and with less memory beside them.

A loss asks for a path for its logits; None means that the plain one is as good.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segtrain.gpu_code import GPUS, transformed, triton_module
from segtrain.losses.kernels import binary, blocks, graph
from segtrain.losses.kernels.maps import PixelMap
from segtrain.selection import asking_is_free
from segtrain.upsampling import Logits, Upsampled, full_resolution

__all__ = ["PixelMap", "bce_with_logits", "cross_entropy", "path", "pays"]

# Logits from which on the blocks are as fast as the plain path or faster, forward and backward, on one thread of a Xeon
# (2 MiB of L2), torch 2.14, 2026-11-28: benchmarks/RESULTS.md has the numbers
_LARGE = 1 << 17
_TRITON = "segtrain.losses.kernels.gpu"


def cross_entropy(
    logits: Logits, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap | None:
    """The map of cross entropy with labels [B, *] for logits [B, C, *] that fit each other; ε goes to all classes."""
    if logits.device.type == "cpu" and torch.compiler.is_compiling():
        return graph.cross_entropy(full_resolution(logits), target, weight, ignore_index, smoothing)
    if _transformed(logits):
        return None
    if logits.device.type == "cpu":
        fits = pays(logits.shape) and _can_go_by_blocks(logits)
        return blocks.cross_entropy(logits, target, weight, ignore_index, smoothing) if fits else None
    gpu = _gpu(logits)
    return gpu.cross_entropy(logits, target, weight, ignore_index, smoothing) if gpu is not None else None


def bce_with_logits(
    logits: Logits, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> PixelMap | None:
    """The map of binary cross entropy, one class against the rest, with labels [B, H, W]."""
    if _transformed(logits):
        return None
    if logits.device.type == "cpu":
        fits = pays(logits.shape) and _can_go_by_blocks(logits)
        return binary.bce_with_logits(logits, target, weight, ignore_index, smoothing) if fits else None
    gpu = _gpu(logits)
    return gpu.bce_with_logits(logits, target, weight, ignore_index, smoothing) if gpu is not None else None


def pays(shape: torch.Size) -> bool:
    """Whether the blocks are faster than the plain path for logits [B, C, H, W] on a CPU."""
    return shape.numel() >= _LARGE


def path(device: torch.device) -> str:
    """What computes the cross entropy of large logits on `device`, in a few words for a log."""
    if device.type == "cuda" and triton_module(_TRITON) is not None:
        return "Triton kernels"
    return "blocks" if device.type == "cpu" else "plain torch"


def _transformed(logits: Logits) -> bool:
    """Whether these are no logits of images, or vmap, another transform of torch.func or a tangent is at work."""
    low = logits.low if isinstance(logits, Upsampled) else logits
    return low.dim() != 4 or transformed(low)


def _can_go_by_blocks(logits: Logits) -> bool:
    """Not where the host must not ask, as under the compiler; and not if interpolation would spread a NaN.

    A block is interpolated by products of matrices, in which one NaN would reach pixels that are far from it.
    """
    if not asking_is_free(logits.low if isinstance(logits, Upsampled) else logits):
        return False
    return not isinstance(logits, Upsampled) or bool(logits.low.detach().sum(dtype=torch.float64).isfinite())


def _gpu(logits: Logits) -> Any:
    """The kernels for logits on a GPU, None where there are none."""
    return triton_module(_TRITON) if logits.device.type in GPUS and logits.dtype != torch.float64 else None
