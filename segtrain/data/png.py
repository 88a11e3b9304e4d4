"""The first rows of a PNG: its rows are compressed from top to bottom, so what lies below need not be decoded."""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = 33  # the signature and the chunk IHDR: length, name, 13 bytes, checksum
TEXTS = {b"tEXt", b"iTXt", b"zTXt"}
TURNING = (b"Raw profile", b"XML:")  # how texts begin that may say how the image is turned
OTHERS = {b"eXIf", b"acTL"}  # an orientation; an animation


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
    header = content[12:20] + struct.pack(">I", rows) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[HEADER_END:]
