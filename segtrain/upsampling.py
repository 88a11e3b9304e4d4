"""Logits that a model hands over at low resolution, together with the bilinear upsampling that its head ends in.

At full resolution they are the largest tensor of a step; who can, makes one band of their rows after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_BAND = 1 << 22  # logits that are made at a time

Place = tuple[slice, slice]  # images, and rows of them


class Upsampled(NamedTuple):
    """Stands for the logits [B, C, H, W] that bilinear interpolation makes of fewer."""

    low: Tensor  # [B, C, h, w]
    grid: tuple[int, int]  # what is interpolated to
    size: tuple[int, int]  # (H, W): as much of it, from the top left, as belongs to the image
    align_corners: bool

    @property
    def shape(self) -> torch.Size:
        """[B, C, H, W] of the logits that it stands for."""
        return torch.Size((*self.low.shape[:2], *self.size))

    @property
    def dtype(self) -> torch.dtype:
        """As of a tensor."""
        return self.low.dtype

    @property
    def device(self) -> torch.device:
        """As of a tensor."""
        return self.low.device

    def dim(self) -> int:
        """As of a tensor: 4."""
        return 4

    def detach(self) -> Upsampled:
        """As of a tensor: the same without a gradient."""
        return self._replace(low=self.low.detach())

    def full(self) -> Tensor:
        """The logits themselves, as `torch.nn.functional.interpolate` makes them."""
        full = F.interpolate(self.low, self.grid, mode="bilinear", align_corners=self.align_corners)
        return full[..., : self.size[0], : self.size[1]]

    def taps(self, axis: int) -> Taps:
        """From what each row (axis 0) or column (1) of the image is interpolated."""
        return taps(self.low.shape[2 + axis], self.grid[axis], self.size[axis], self.align_corners, self.low)

    def source(self, rows: slice) -> slice:
        """Rows of `low`, few but enough to make `rows` of."""
        low, full = self.low.shape[2], self.grid[0]
        if self.align_corners:
            scale, shift = (low - 1) / max(full - 1, 1), 0.0
        else:
            scale, shift = low / full, 0.5 * low / full - 0.5
        first, last = (max(0.0, scale * row + shift) for row in (rows.start, rows.stop - 1))
        # the positions of torch are rounded to float32
        return slice(max(0, math.floor(first - 1e-2)), min(low, math.floor(last + 1e-2) + 2))

    @torch.no_grad()
    def bands(self) -> Iterator[tuple[Place, Tensor]]:
        """Some rows after the other: where they are, and their logits [b, C, R, W] in full precision, without gradient.

        In float32, whatever the logits are in; a band holds some rows of one image.
        """
        images, classes, height, width = self.shape
        step = max(1, _BAND // max(1, classes * width))
        across, down = self.taps(1), self.taps(0)
        for image in range(images):
            for top in range(0, height, step):
                rows = slice(top, min(top + step, height))
                source = self.source(rows)
                x = self.low[image : image + 1, :, source].to(across.part.dtype)
                x = torch.lerp(x[..., across.first], x[..., across.second], across.part)
                first, second = down.first[rows] - source.start, down.second[rows] - source.start
                x = torch.lerp(x[:, :, first], x[:, :, second], down.part[rows, None])
                yield (slice(image, image + 1), rows), x


Logits = Tensor | Upsampled


class Taps(NamedTuple):
    """Two neighbours of each of n positions: (1 - part) of the first and `part` of the second."""

    first: Tensor  # int64 [n]
    second: Tensor
    part: Tensor  # [n]

    def matrix(self, low: int) -> Tensor:
        """What each of `low` values contributes to each position, [n, low]."""
        whole = self.part.new_zeros(len(self.part), low)
        whole.scatter_(1, self.first[:, None], 1 - self.part[:, None])
        return whole.scatter_add_(1, self.second[:, None], self.part[:, None])


def taps(low: int, full: int, size: int, align_corners: bool, like: Tensor) -> Taps:
    """Of the first `size` of `full` positions among `low` values; rounded as torch rounds them for `like`."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    at = torch.arange(size, device=like.device, dtype=dtype)
    if align_corners:
        scale = torch.tensor(low - 1, dtype=dtype) / max(full - 1, 1)
        at = at * scale
    else:
        scale = torch.tensor(low, dtype=dtype) / full
        at = ((at + 0.5) * scale - 0.5).clamp(min=0)
    first = at.long().clamp(max=low - 1)
    return Taps(first, (first + 1).clamp(max=low - 1), (at - first).clamp(0, 1))


def full_resolution(logits: Logits) -> Tensor:
    """The logits [B, C, *] as one tensor."""
    return logits.full() if isinstance(logits, Upsampled) else logits


def by_pixel(function: Callable[..., Tensor], logits: Logits, *maps: Tensor) -> Tensor:
    """What `function` makes of logits [B, C, *] and `maps` [B, *] per pixel, [B, *]; by bands, without gradient."""
    if not isinstance(logits, Upsampled):
        return function(logits.detach(), *maps)
    images, _, height, width = logits.shape
    numbers: Tensor | None = None
    for at, band in logits.bands():
        some = function(band, *(one[at] for one in maps))
        if numbers is None:
            numbers = some.new_empty(images, height, width)
        numbers[at] = some
    return function(logits.full().detach(), *maps) if numbers is None else numbers
