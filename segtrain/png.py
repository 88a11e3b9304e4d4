"""PNG files written from the top down, so that they may be larger than the memory."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

_LONGEST = (1 << 31) - 1  # rows, and pixels of a row, that the format can count


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
        self._file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, 3 if palette else 2, 0, 0, 0))
        if palette:
            self._chunk(b"PLTE", bytes(np.asarray(palette, np.uint8)))

    def add(self, rows: npt.NDArray[np.uint8]) -> None:
        """The next rows: [n, W], or [n, W, 3] without a palette."""
        if rows.dtype != np.uint8 or rows.shape[1:] != self._row or len(rows) > self._missing:
            raise ValueError(f"rows {rows.dtype} {rows.shape}; expected uint8 and {self._missing} more of {self._row}")
        self._missing -= len(rows)
        # a byte before each row says how it is coded: 0, as it is, which is best for areas of one colour
        data = self._deflate.compress(np.pad(rows.reshape(len(rows), -1), ((0, 0), (1, 0))).tobytes())
        if data:
            self._chunk(b"IDAT", data)

    def __enter__(self) -> PngRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self._missing:
                    raise ValueError(f"{self._missing} rows of {self._path} are missing")
                self._chunk(b"IDAT", self._deflate.flush())
                self._chunk(b"IEND", b"")
                self._file.close()
                self._unfinished.replace(self._path)
        finally:
            try:
                self._file.close()  # writes what is left, which a full disk refuses again
            finally:
                self._unfinished.unlink(missing_ok=True)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
