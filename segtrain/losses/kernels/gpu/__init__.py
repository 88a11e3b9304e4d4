"""Pixel losses on a GPU, in Triton: one pass over the logits forward, one backward."""

from segtrain.losses.kernels.gpu.operators import bce_with_logits, cross_entropy

__all__ = ["bce_with_logits", "cross_entropy"]
