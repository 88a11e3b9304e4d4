"""Reading image and label files with Pillow: what is accepted, what is converted, and what is refused with a remedy."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from segtrain.errors import DataError

PIXEL_LIMIT = 89_478_485  # Pillow's own: an image of more is refused before it is decoded
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".pgm")

# Modes of image files that are turned into RGB as their values stand; 16-bit grey is scaled, others are refused
TO_RGB = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
# Modes of label files. Palette images stay indices; RGBA drops its alpha
INDICES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}
COLORS = {"RGB", "RGBA", "RGBX"}
SIGNATURES = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF"}
SIXTEEN_BITS = {"I;16", "I;16B", "I;16L"}


Window = tuple[slice, slice]  # rows and columns


class Shaped(Protocol):
    """An array, or what will be one."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def read_image(
    path: Path, content: bytes | None = None, *, max_pixels: int = PIXEL_LIMIT, window: Window | None = None
) -> npt.NDArray[np.uint8]:
    """RGB uint8 [H, W, 3], turned as its EXIF orientation says.

    Grey, palette, 1-bit, CMYK and alpha images become RGB, 16-bit grey keeps its upper 8 bits. Raises DataError for a
    file that is missing, damaged, cut short, of more than `max_pixels` or of another mode. With `content`, the bytes of
    a file, `path` only names it; with `window`, only this part of the image is converted.
    """
    return to_rgb(_part(_decoded(path, content, max_pixels), window), str(path))


def to_rgb(image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] of an image as it stands. Raises DataError naming `name` for a mode without a meaning."""
    if image.mode == "RGB":
        return np.array(image)
    if image.mode in SIXTEEN_BITS:
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode not in TO_RGB:
        raise DataError(f"{name} has mode {image.mode}, which does not say what white is; save it with 8 or 16 bits")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about the direct way for some palettes
    return np.array(image.convert("RGB"))


def read_mask(path: Path, content: bytes | None = None, *, window: Window | None = None) -> npt.NDArray[Any]:
    """Raw labels: integers [H, W], or colours uint8 [H, W, 3] of an RGB file; turned as the EXIF orientation says.

    Indices of palette images are kept as they are, except that a GIF in shades of grey gives the shades, because grey
    cannot be saved in it otherwise. 1-bit masks hold 0 and 1. Raises DataError as `read_image` does,
    for a JPEG, whose values are not those that were saved, and for several pages or frames, of which one is meant.
    """
    image = _decoded(path, content, one_frame=True)
    if image.format == "JPEG":
        raise DataError(f"{path} is a JPEG: its compression changes label values; export the masks again as PNG")
    if image.format == "GIF" and image.mode == "P" and _is_grey(image):
        image = image.convert("L")
    image = _part(image, window)
    if image.mode in COLORS:
        return np.array(image.convert("RGB"))
    if image.mode not in INDICES:
        raise DataError(f"{path} has mode {image.mode}, which is no label image; save class indices as 8-bit grey PNG")
    values = np.array(image)
    return values.astype(np.uint8) if image.mode == "1" else values


def _part(image: Image.Image, window: Window | None) -> Image.Image:
    if window is None:
        return image
    rows, columns = window
    return image.crop((columns.start, rows.start, columns.stop, rows.stop))


def check_sizes(image: Shaped, image_file: str, other: Shaped, other_file: str) -> None:
    """Raise DataError unless both have one height and width."""
    if image.shape[:2] != other.shape[:2]:
        sizes = f"{_size(image)}, but {other_file} is {_size(other)}"
        turned = image.shape[:2] == other.shape[1::-1]
        cure = "one of them is turned, perhaps by EXIF in a viewer" if turned else "labels are never resized on reading"
        raise DataError(f"{image_file} is {sizes}; {cure}: give each image labels of its own size")


def _decoded(
    path: Path, content: bytes | None, max_pixels: int = PIXEL_LIMIT, *, one_frame: bool = False
) -> Image.Image:
    """The whole image, decoded strictly; its size is checked from the header before."""
    if content is None and not path.is_file():
        raise DataError(f"{path} {'is a directory, not an image' if path.is_dir() else 'does not exist'}")
    if (os.path.getsize(path) if content is None else len(content)) == 0:
        raise DataError(f"{path} is empty (0 bytes): a copy or download that did not finish; fetch it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; and of the size limit, which is checked below
            image: Image.Image
            with _opened(path, content, max_pixels) as image:
                if image.width * image.height > max_pixels:
                    raise Image.DecompressionBombError
                frames = getattr(image, "n_frames", 1) if one_frame else 1
                if frames > 1:
                    raise DataError(f"{path} has {frames} pages or frames; save the one that belongs to the image")
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} has more than {max_pixels // 10**6} million pixels; cut it into tiles (predict.py reads it with "
            "--max-pixels)"
        ) from error
    except Exception as error:  # decoders of damaged files raise anything
        reason = _reason(_start(path, content), error)
        raise DataError(f"{path} cannot be read: {reason}; fetch it again or leave it out") from error


def _opened(path: Path, content: bytes | None, max_pixels: int) -> Image.Image:
    """Pillow's own limit is one of the process; whoever wants a higher one here gets it for the opening alone."""
    usual = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = max(max_pixels, PIXEL_LIMIT)
        return Image.open(path if content is None else io.BytesIO(content))
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def _is_grey(image: Image.Image) -> bool:
    palette = np.array(image.getpalette()).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _start(path: Path, content: bytes | None) -> bytes:
    try:
        return path.read_bytes()[:64] if content is None else content[:64]
    except OSError:
        return b""


def _reason(start: bytes, error: Exception) -> str:
    start = start.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, not an image"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself (git lfs pull)"
    if "cannot identify" not in str(error):
        return f"{type(error).__name__}: {error}"
    known = [name for signature, name in SIGNATURES.items() if start.startswith(signature.lower())]
    return f"it begins as a {known[0]}, but the rest is damaged or missing" if known else "its format is unknown"


def _size(array: Shaped) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
