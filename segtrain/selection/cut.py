"""What is taken of many entries, told by where the cut is: nothing as large as the entries is made."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from segtrain.gpu_code import triton_module


class Cut(NamedTuple):
    """All of the available entries above the threshold of their group is taken, and of each at it the same part.

    The groups are as long and follow each other, G of them: all entries, or each image. On a GPU.
    """

    scores: Tensor  # [B, *] float32, contiguous; they rank as in `take_largest`
    available: Tensor  # [B, *] bool, contiguous
    threshold: Tensor  # [G] float32
    part: Tensor  # [G] float64

    @property
    def share(self) -> Tensor:
        """What is taken of each entry, float64 [B, *]."""
        share: Tensor = _kernels().share(*self)
        return share

    def sums(self, x: Tensor, y: Tensor | None = None) -> CutSums:
        """Sums of the entries and of one or two maps of them, float32 [B, *], in one pass; differentiable for `x`."""
        y = None if y is None else y.contiguous()
        taken_of_x, of_x, numbers = _kernels().sums(x.contiguous(), y, *self)
        return CutSums(taken_of_x, of_x, *numbers.detach().unbind())

    def taken_of_images(self) -> Tensor:
        """Σ share of each image, float64 [B]."""
        taken: Tensor = _kernels().taken_of_images(*self)
        return taken


class CutSums(NamedTuple):
    """Scalars; float64 but for the first two, the only ones with a gradient."""

    taken_of_x: Tensor  # Σ share·x, float32
    of_x: Tensor  # Σ x, float32
    number: Tensor  # of the available entries
    taken: Tensor  # Σ share
    exact_of_x: Tensor  # the same as above
    exact_taken_of_x: Tensor
    of_y: Tensor
    taken_of_y: Tensor


def share_of(kept: Tensor | Cut) -> Tensor:
    """What is kept of each entry, float64 or bool [B, *]."""
    return kept.share if isinstance(kept, Cut) else kept


def _kernels() -> Any:
    return triton_module("segtrain.selection.cut_kernels")
