"""What becomes of a bad or odd file, from the folder to what a user reads: the table of docs/data.md, row by row.

Each row puts one file beside five good ones, and all are read as --check-data reads them, in a process of its own.
"""

import re
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.data.check import check_labels
from segtrain.data.folder_pairs import folder_pairs
from segtrain.errors import DataError

DOCUMENT = Path(__file__).parents[2] / "docs/data.md"
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
LABELS = (NOISE[..., 0] % 3).astype(np.uint8)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
TURNED = Image.Exif()
TURNED[0x0112] = 6  # show it a quarter clockwise


def encoded(array, kind="PNG", mode=None, **options):
    buffer = BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def palette(array):
    image = Image.fromarray(array).convert("P")
    image.putpalette([9, 9, 9] * 256)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def cut_short(data):
    return data[: len(data) * 2 // 3]


def flipped(data):
    middle = data.index(b"IDAT") + 40
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def bomb(side):
    """A PNG whose header promises side x side pixels and whose data never comes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


IMAGE, MASK = encoded(NOISE), encoded(LABELS)
FINE = "labels of 6 samples ok"
PAGE, POINTER = b"<!DOCTYPE html><title>Log in</title>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0"
# the row of the table: the image, the mask (None: no such file), what is said
ROWS = {
    "image of 0 bytes": (b"", MASK, r"images/odd\.png is empty \(0 bytes\): .*fetch it again"),
    "mask of 0 bytes": (IMAGE, b"", r"masks/odd\.png is empty \(0 bytes\): .*fetch it again"),
    "JPEG image cut short": (cut_short(encoded(NOISE, "JPEG")), MASK, r"images/odd\.png cannot .*truncated.*leave it"),
    "PNG image cut short": (cut_short(IMAGE), MASK, r"images/odd\.png cannot be read: .*truncated.*fetch it again"),
    "PNG mask cut short": (IMAGE, cut_short(MASK), r"masks/odd\.png cannot be read: .*truncated.*fetch it again"),
    "image with a flipped bit": (flipped(IMAGE), MASK, r"images/odd\.png cannot be read: .*fetch it again"),
    "mask with a flipped bit": (IMAGE, flipped(MASK), r"masks/odd\.png cannot be read: .*fetch it again"),
    "web page": (PAGE, MASK, r"images/odd\.png cannot be read: it is a web page"),
    "Git LFS pointer": (IMAGE, POINTER, r"masks/odd\.png cannot be read: it is a Git LFS pointer.*git lfs pull"),
    "bytes of no format": (b"\0" * 500, MASK, r"images/odd\.png cannot be read: its format is unknown"),
    "missing mask": (IMAGE, None, r"odd.*missing: skip"),
    "directory instead of an image": ("directory", MASK, r"odd"),
    "palette mask": (IMAGE, palette(LABELS), FINE),
    "RGB mask": (IMAGE, encoded(COLOURS[LABELS]), r"masks/odd\.png .*palette"),
    "RGBA mask": (IMAGE, encoded(COLOURS[LABELS], mode="RGBA"), r"masks/odd\.png .*palette"),
    "grey mask saved as RGB": (IMAGE, encoded(np.stack([LABELS] * 3, axis=2)), r"masks/odd\.png .*save it once"),
    "16-bit mask": (IMAGE, encoded(LABELS.astype(np.uint16)), FINE),
    "1-bit mask": (IMAGE, encoded(LABELS > 0), FINE),
    "JPEG mask": (IMAGE, encoded(LABELS, "JPEG"), r"masks/odd\.png is a JPEG: .*export the masks again as PNG"),
    "mask of a value without a class": (IMAGE, encoded(LABELS + np.uint8(1)), r"masks/odd\.png.*\b3\b"),
    "mask of another size": (IMAGE, encoded(LABELS[:-1]), r"64x48, but .*odd\.png is 64x47; .*labels of its own size"),
    "image turned by EXIF": (encoded(NOISE, exif=TURNED), MASK, r"one of them is turned, perhaps by EXIF"),
    "image turned by EXIF, mask as shown": (encoded(NOISE, exif=TURNED), encoded(np.rot90(LABELS, -1)), FINE),
    "CMYK image": (encoded(NOISE, "JPEG", "CMYK"), MASK, FINE),
    "16-bit grey image": (encoded(NOISE[..., 0].astype(np.uint16) * 257), MASK, FINE),
    "RGBA image": (encoded(NOISE, mode="RGBA"), MASK, FINE),
    "image of floats": (encoded(NOISE[..., 0].astype(np.float32), "TIFF"), MASK, r"images/odd\.png has mode F, .*save"),
    "bomb, 89 million pixels": (bomb(9_460), MASK, r"images/odd\.png has more than 89 million pixels; cut it into"),
    "bomb, 3,600 million pixels": (bomb(60_000), MASK, r"images/odd\.png has more than 89 million pixels; cut it"),
}


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize("row", ROWS)
def test_a_bad_file_is_named_with_a_remedy_and_an_odd_one_means_what_the_table_says(row, tmp_path):
    *odd, said = ROWS[row]
    for number in range(5):
        put(tmp_path / f"images/{number}.png", IMAGE)
        put(tmp_path / f"masks/{number}.png", MASK)
    put(tmp_path / "images/odd.png", odd[0])
    put(tmp_path / "masks/odd.png", odd[1])

    try:
        dataset = folder_pairs(root=tmp_path, images="images/*", masks="masks/*", names=["a", "b", "c"])
        told = check_labels(dataset, len(dataset), workers=1)
    except DataError as error:
        told = str(error)
    assert re.search(said, told), told


def test_the_document_has_the_rows_that_are_tested():
    section = DOCUMENT.read_text().partition("## Bad and odd files")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| ([^|]+) \| (accepted|converted|error)\b", section, re.MULTILINE))
    assert {row: kind == "error" for row, kind in told.items()} == {
        row: said != FINE for row, (*_, said) in ROWS.items()
    }
