"""What a kernel gives for each pixel."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PixelMap(NamedTuple):
    """As in LossMap; [B, H, W]."""

    value: Tensor
    weight: Tensor
    hardness: Tensor
    valid: Tensor
