"""PNG files, whose rows are compressed from top to bottom: written band by band, and read no further than needed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = 33  # the signature and the chunk IHDR: length, name, 13 bytes, checksum
TEXTS = {b"tEXt", b"iTXt", b"zTXt"}
TURNING = (b"Raw profile", b"XML:")  # how texts begin that may say how the image is turned
OTHERS = {b"eXIf", b"acTL"}  # an orientation; an animation
_LONGEST = (1 << 31) - 1  # rows, and pixels of a row, that the format can count


def plain_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a PNG that is intact, not interlaced, not animated and not turned, or None.

    All checksums are compared, so that damage is noticed wherever it is, also in rows that will not be decoded.
    """
    if content[:8] != SIGNATURE or content[12:16] != b"IHDR" or len(content) < HEADER_END or content[28]:
        return None
    view, place, name = memoryview(content), 8, b""
    while name != b"IEND":
        if place + 12 > len(content):
            return None
        length = int.from_bytes(view[place : place + 4], "big")
        name, end = bytes(view[place + 4 : place + 8]), place + 8 + length
        if zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return None
        if name in OTHERS or (name in TEXTS and content.startswith(TURNING, place + 8)):
            return None
        place = end + 4
    width, height = struct.unpack(">II", content[16:24])
    return height, width


def first_rows(content: bytes, rows: int) -> bytes:
    """A plain PNG with a height of `rows` and otherwise as it is: decoders go no further than that."""
    header = content[16:20] + struct.pack(">I", rows) + content[24:29]
    return SIGNATURE + _chunk(content[12:16], header) + content[HEADER_END:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class PngRows:
    """A PNG of `size` (height, width): indices into `palette`, or RGB without one. Takes its name when it is complete.

    Used in a `with` statement; an error in it leaves no file. Raises ValueError for rows of another form, and OSError.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], palette: Sequence[tuple[int, int, int]] | None = None
    ) -> None:
        if not all(0 < side <= _LONGEST for side in size) or len(palette or ()) > 256:
            raise ValueError(f"size {size} with {len(palette or ())} colours; expected 1 to {_LONGEST} and at most 256")
        self._path, self._unfinished = path, path.with_name(path.name + ".tmp")
        self._row = (size[1],) if palette else (size[1], 3)
        self._missing, self._deflate = size[0], zlib.compressobj(6)
        self._file = open(self._unfinished, "wb")  # noqa: SIM115 - closed by __exit__
        self._file.write(SIGNATURE)
        self._add(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, 3 if palette else 2, 0, 0, 0))
        if palette:
            self._add(b"PLTE", bytes(np.asarray(palette, np.uint8)))

    def add(self, rows: npt.NDArray[np.uint8]) -> None:
        """The next rows: [n, W], or [n, W, 3] without a palette."""
        if rows.dtype != np.uint8 or rows.shape[1:] != self._row or len(rows) > self._missing:
            raise ValueError(f"rows {rows.dtype} {rows.shape}; expected uint8 and {self._missing} more of {self._row}")
        self._missing -= len(rows)
        # a byte before each row says how it is coded: 0, as it is, which is best for areas of one colour
        data = self._deflate.compress(np.pad(rows.reshape(len(rows), -1), ((0, 0), (1, 0))).tobytes())
        if data:
            self._add(b"IDAT", data)

    def __enter__(self) -> PngRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self._missing:
                    raise ValueError(f"{self._missing} rows of {self._path} are missing")
                self._add(b"IDAT", self._deflate.flush())
                self._add(b"IEND", b"")
                self._file.close()
                self._unfinished.replace(self._path)
        finally:
            try:
                self._file.close()  # writes what is left, which a full disk refuses again
            finally:
                self._unfinished.unlink(missing_ok=True)

    def _add(self, kind: bytes, data: bytes) -> None:
        self._file.write(_chunk(kind, data))
