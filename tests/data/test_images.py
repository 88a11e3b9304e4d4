import contextlib
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segtrain.data import images
from segtrain.data.images import check_sizes, read_image, read_mask
from segtrain.errors import DataError

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8)
COLORFUL = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)
ORIENTATION = 0x0112


def saved(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.png", "RGB"), ("a.png", "RGBA"), ("a.tif", "RGB"), ("a.bmp", "RGB"), ("a.webp", "RGB"), ("a.gif", "L")],
)
def test_colour_images_of_all_kinds_become_rgb(tmp_path: Path, name: str, mode: str):
    options = {"lossless": True} if name.endswith("webp") else {}
    source = COLORFUL if mode != "L" else np.stack([RAMP] * 3, axis=2)
    image = read_image(saved(tmp_path / name, source, mode, **options))
    assert (image.shape, image.dtype) == ((6, 8, 3), np.uint8)
    assert image.flags.writeable
    assert np.array_equal(image, source)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_images_become_rgb(tmp_path: Path, mode: str):
    assert np.array_equal(read_image(saved(tmp_path / "a.png", RAMP, mode)), np.stack([RAMP] * 3, axis=2))


def test_1_bit_and_16_bit_images_keep_black_and_white(tmp_path: Path):
    bits = read_image(saved(tmp_path / "bits.png", RAMP > 20, "1"))
    assert set(np.unique(bits)) == {0, 255}
    deep = read_image(saved(tmp_path / "deep.png", np.array([[0, 32768, 65535]], np.uint16)))
    assert deep[0, :, 0].tolist() == [0, 128, 255]


def test_cmyk_becomes_rgb_and_floats_are_refused(tmp_path: Path):
    white = read_image(saved(tmp_path / "c.jpg", np.full((8, 8, 3), 255, np.uint8), "CMYK"))
    assert white.min() > 250
    path = saved(tmp_path / "f.tif", RAMP.astype(np.float32))
    for read in (read_image, read_mask):
        with pytest.raises(DataError, match=r"f\.tif has mode F"):
            read(path)


def test_palettes_with_transparency_are_read_without_a_warning(tmp_path: Path):
    image = Image.fromarray(RAMP).convert("P")
    image.save(tmp_path / "t.png", transparency=bytes(range(48)))
    assert read_image(tmp_path / "t.png").shape == (6, 8, 3)


def test_palette_masks_stay_indices(tmp_path: Path):
    image = Image.fromarray(RAMP).convert("P")
    image.putpalette([9, 9, 9] * 256)
    image.save(tmp_path / "p.png")
    assert np.array_equal(read_mask(tmp_path / "p.png"), RAMP)


def test_grey_gifs_give_their_shades_and_coloured_ones_their_indices(tmp_path: Path):
    saved(tmp_path / "grey.gif", np.array([[0, 255], [9, 9]], np.uint8))
    with Image.open(tmp_path / "grey.gif") as image:
        assert image.mode == "P", "Pillow packs the shades into a palette"
    assert read_mask(tmp_path / "grey.gif").tolist() == [[0, 255], [9, 9]]
    image = Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8)).convert("P")
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 200])
    image.save(tmp_path / "color.gif", optimize=False)
    assert read_mask(tmp_path / "color.gif").tolist() == [[0, 1], [2, 2]]


def test_1_bit_masks_hold_0_and_1_and_16_bit_masks_their_values(tmp_path: Path):
    assert set(np.unique(read_mask(saved(tmp_path / "bits.png", RAMP > 20, "1")))) == {0, 1}
    deep = np.array([[0, 1000, 65535]], np.uint16)
    assert read_mask(saved(tmp_path / "deep.png", deep)).tolist() == deep.tolist()


def test_rgb_masks_come_as_colours_without_alpha(tmp_path: Path):
    for mode in ("RGB", "RGBA"):
        assert np.array_equal(read_mask(saved(tmp_path / f"{mode}.png", COLORFUL, mode)), COLORFUL)


def test_jpeg_masks_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"m\.jpg is a JPEG: .* export the masks again as PNG"):
        read_mask(saved(tmp_path / "m.jpg", RAMP))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_exif_rotation_is_applied(tmp_path: Path, name: str):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was turned: show it a quarter clockwise
    path = saved(tmp_path / name, np.kron(COLORFUL, np.ones((8, 8, 1), np.uint8)), exif=exif)
    assert read_image(path).shape == (64, 48, 3)
    if name != "a.jpg":
        assert read_mask(path).shape == (64, 48, 3)
        assert np.array_equal(read_mask(path)[::8, ::8], np.rot90(COLORFUL, -1))


def cut_short(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def flip_a_bit(data: bytes) -> bytes:
    middle = data.index(b"IDAT") + 12
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def noise(kind: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (cut_short(noise("JPEG")), "truncated"),
        (cut_short(noise("PNG")), "truncated"),
        (cut_short(noise("TIFF")), "cannot be read"),
        (cut_short(noise("GIF")), "cannot be read"),
        (flip_a_bit(noise("PNG")), "cannot be read"),
        (b"<!DOCTYPE html><title>Log in</title>", "a web page, not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\0" * 500, "format is unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_damaged_files_are_named(tmp_path: Path, data: bytes, said: str, read: object):
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"bad\.png .*{said}"):
        read(path)


def test_missing_files_and_directories_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match="is a directory"):
        read_image(tmp_path)


def bomb(side: int) -> bytes:
    """A PNG whose header promises side x side pixels and whose data never comes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_460, 60_000])
def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path, side: int):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side))
    with pytest.raises(DataError, match=r"bomb\.png has more than 89 million pixels; cut it into tiles"):
        read_image(path)


def test_a_bomb_needs_no_memory(tmp_path: Path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(60_000))
    script = (
        "import resource, sys, pathlib\n"
        "from segtrain.data.images import read_image\n"
        "from segtrain.errors import DataError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000, -1))\n"
        "try: read_image(pathlib.Path(sys.argv[1]))\n"
        "except DataError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, timeout=120)
    assert "89 million" in done.stdout, done.stderr


def test_sizes_must_agree():
    image, mask = np.zeros((4, 6, 3)), np.zeros((4, 5))
    with pytest.raises(DataError, match=r"a\.jpg is 6x4, but m\.png is 5x4; .* labels of its own size"):
        check_sizes(image, "a.jpg", mask, "m.png")
    with pytest.raises(DataError, match="one of them is turned"):
        check_sizes(image, "a.jpg", np.zeros((6, 4)), "m.png")


# ---- any bytes


def ends_in_an_array_or_a_data_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for read in (read_image, read_mask):
        for given_content in (None, content):
            with pytest.MonkeyPatch.context() as patch, contextlib.suppress(DataError):
                patch.setattr(images, "PIXEL_LIMIT", 100_000)  # or most of the time goes into large empty pictures
                array = read(path, given_content)
                assert array.ndim in (2, 3)
                assert array.dtype.kind in "ui"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_any_bytes_are_an_array_or_a_data_error(tmp_path: Path, content: bytes):
    ends_in_an_array_or_a_data_error(tmp_path / "x.png", content)


FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM")
WHOLE = {kind: noise(kind) for kind in FORMATS}


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(FORMATS), data=st.data())
def test_an_image_with_any_bytes_in_any_place_is_an_array_or_a_data_error(
    tmp_path: Path, kind: str, data: st.DataObject
):
    content = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        # headers say how large an image is and where its parts are, so most of the damage goes there
        end = data.draw(st.sampled_from([16, 64, len(content)]))
        position = data.draw(st.integers(0, end - 1))
        content[position : position + 4] = data.draw(st.binary(max_size=8))
    ends_in_an_array_or_a_data_error(tmp_path / "x", bytes(content[: data.draw(st.integers(0, len(content)))]))


@pytest.mark.parametrize("name", ["m.gif", "m.tif"])
def test_labels_of_several_frames_are_refused(tmp_path: Path, name: str):
    pages = [Image.fromarray(RAMP), Image.fromarray(RAMP[::-1].copy())]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=f"{name} has 2 pages or frames; save the one that belongs to the image"):
        read_mask(tmp_path / name)
    assert read_image(tmp_path / name).shape == (6, 8, 3)


def test_a_file_of_which_only_the_beginning_is_left_is_not_of_an_unknown_format(tmp_path: Path):
    path = saved(tmp_path / "a.tif", COLORFUL)
    path.write_bytes(path.read_bytes()[:7])
    with pytest.raises(DataError, match=r"a\.tif cannot be read: it begins as a TIFF, but the rest is damaged"):
        read_image(path)
    path.write_bytes(b"something else")
    with pytest.raises(DataError, match="its format is unknown"):
        read_image(path)
