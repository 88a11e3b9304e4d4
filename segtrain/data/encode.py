"""Images and labels as the bytes of files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segtrain.data.labels import IGNORE, VOC_BORDER
from segtrain.task import Color


def png(array: npt.NDArray[Any]) -> bytes:
    """An RGB image [H, W, 3] or grey values [H, W], as they are."""
    return _saved(Image.fromarray(array))


def index_png(ids: npt.NDArray[np.uint8], palette: Sequence[Color]) -> bytes:
    """Class ids [H, W] as a palette image: the values stay what they are, and viewers show `palette`."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    colors[IGNORE] = VOC_BORDER
    image = Image.frombytes("P", (ids.shape[1], ids.shape[0]), np.ascontiguousarray(ids).tobytes())
    image.putpalette(colors.ravel().tolist())
    return _saved(image)


def _saved(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
