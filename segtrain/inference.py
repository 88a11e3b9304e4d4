"""How the logits of an image come about: at once or in overlapping windows, from one view of it or from several.

Every average is one of logits: it is linear, so it means the same whatever the criterion makes of them, and the blend
of windows and the mean of views can be taken in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Net = Callable[[Tensor], Tensor]  # uint8 [B, 3, H, W] → logits [B, C, H, W], or [B, C] of a classifier
Size = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True)
class Inference:
    """A way of looking at images. Raises ValueError for one that leaves pixels out or makes no sense.

    `window`: look through windows of this size, None: at the whole image. `stride`: how far apart they are at most,
    half a window where it is not given. `scales`: sizes of the views, relative to the image or window; `flip`: each
    also mirrored left to right. `batch`: so many windows in one forward pass.
    """

    window: Size | None = None
    stride: Size | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    batch: int = 1

    def __post_init__(self) -> None:
        for what, size in (("window", self.window), ("stride", self.stride)):
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise ValueError(f"{what} {size}: expected a height and a width of at least 1 pixel")
        if self.stride is not None and self.window is None:
            raise ValueError(f"stride {self.stride} without a window; give the size of the windows as well")
        if self.stride and self.window and any(s > w for s, w in zip(self.stride, self.window, strict=True)):
            stride, window = ("x".join(map(str, size)) for size in (self.stride, self.window))
            raise ValueError(f"stride {stride} is longer than the window {window}: pixels would be left out")
        if not self.scales or not all(0 < scale < float("inf") for scale in self.scales):
            raise ValueError(f"scales {self.scales}: expected one or more numbers above 0")
        if self.batch < 1:
            raise ValueError(f"batch {self.batch}: expected at least 1")

    def in_words(self) -> str:
        """For reports: `windows of 512x512, 256x256 apart · mirrored too · scales 0.75, 1, 1.25`."""
        words = ["whole images"]
        if self.window is not None:
            size, stride = ("x".join(map(str, two)) for two in (self.window, self.steps(self.window)))
            words = [f"windows of {size}, {stride} apart"]
        words += ["mirrored too"] if self.flip else []
        words += [f"scales {', '.join(f'{scale:g}' for scale in self.scales)}"] if self.scales != (1.0,) else []
        return " · ".join(words)

    def steps(self, window: Size) -> Size:
        """How far apart windows are at most."""
        return self.stride or (-(-window[0] // 2), -(-window[1] // 2))

    @torch.no_grad()
    def __call__(self, net: Net, image: Tensor) -> Tensor:
        """The logits [B, C, H, W] (or [B, C]) of uint8 [B, 3, H, W]; float32, unless there is one view of the whole."""
        if self.window is None:
            return self._views(net, image)
        return torch.cat(list(self.bands(net, image)), 2)

    @torch.no_grad()
    def bands(self, net: Net, image: Tensor) -> Iterator[Tensor]:
        """The logits as bands of finished rows [B, C, h, W] from the top down, Σ h = H.

        No more than a band is held, so the image may be larger than the memory for its logits, and may itself be a
        mapped file: only windows of it are read. Windows are blended by weights that fall towards their edges and add
        up to one at every pixel.
        """
        if self.window is None:
            yield self._views(net, image)
            return
        count, (height, width) = len(image), image.shape[-2:]
        h, w = min(self.window[0], height), min(self.window[1], width)
        down, right = self.steps(self.window)
        tops, lefts = starts(height, h, down), starts(width, w, right)
        rows, columns = shares(tops, h, height), shares(lefts, w, width)
        rest: Tensor | None = None  # rows that the next windows reach into
        for index, top in enumerate(tops):
            band: Tensor | None = None
            for first in range(0, len(lefts), self.batch):
                some = lefts[first : first + self.batch]
                tiles = [image[..., top : top + h, left : left + w] for left in some]
                logits = self._views(net, torch.cat(tiles) if len(tiles) > 1 else tiles[0]).float()
                if band is None:
                    band = logits.new_zeros(count, logits.shape[1], h, width)
                for position, part in enumerate(torch.split(logits, count), start=first):
                    left = lefts[position]
                    share = rows[index][:, None] * columns[position]
                    band[..., left : left + w] += part * share.to(part.device)
            assert band is not None  # there is a window in every row
            if rest is not None:
                band[:, :, : rest.shape[2]] += rest
            end = tops[index + 1] - top if index + 1 < len(tops) else h
            yield band[:, :, :end]
            rest = band[:, :, end:].clone()  # a view would keep all of the band

    def _views(self, net: Net, image: Tensor) -> Tensor:
        """The mean of the logits over the views, at the size of `image`."""
        if self.scales == (1.0,) and not self.flip:
            return net(image)
        size = image.shape[-2:]
        total: Tensor | None = None
        for scale in self.scales:
            view = image if scale == 1 else resized(image, scale)
            for mirrored in (False, True) if self.flip else (False,):
                logits = net(view.flip(-1) if mirrored else view).float()
                if logits.ndim == 4:  # a classifier's have no place to be brought back to
                    logits = logits.flip(-1) if mirrored else logits
                    if logits.shape[-2:] != size:
                        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
                total = logits if total is None else total + logits
        assert total is not None
        return total / (len(self.scales) * (2 if self.flip else 1))


WHOLE = Inference()


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin that cover 0..length-1: evenly spaced, at most `stride` apart, the last one at the end."""
    if length <= window:
        return [0]
    count = -(-(length - window) // stride) + 1
    return [round(index * (length - window) / (count - 1)) for index in range(count)]


def shares(begins: Sequence[int], window: int, length: int) -> list[Tensor]:
    """Of each window the weights [window], highest in its middle, that add up to 1 at each of `length` positions."""
    rise = torch.arange(1, window + 1, dtype=torch.float64)
    tent = torch.minimum(rise, rise.flip(0))
    total = torch.zeros(length, dtype=torch.float64)
    for begin in begins:
        total[begin : begin + window] += tent
    return [(tent / total[begin : begin + window]).float() for begin in begins]


def resized(image: Tensor, scale: float) -> Tensor:
    """uint8 [B, 3, H, W] at `scale` times its size, at least 1 pixel; averaged where it shrinks."""
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    larger = F.interpolate(image.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return larger.round().clamp(0, 255).to(image.dtype)
