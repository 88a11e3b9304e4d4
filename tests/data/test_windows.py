"""What is decoded in part is what is decoded whole, and damage is noticed wherever it is."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from segtrain.data.combined import Concatenated, binary
from segtrain.data.crop import RandomScaleCrop
from segtrain.data.feed import Key, Source
from segtrain.data.folder_pairs import folder_pairs
from segtrain.data.labels import LabelSpec
from segtrain.data.pairs import Pair, Pairs
from segtrain.data.transforms import compose
from segtrain.data.windows import Undecoded, opened
from segtrain.errors import DataError
from segtrain.png import first_rows, plain_size

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (40, 56, 3)).astype(np.uint8)
LABELS = RNG.integers(0, 5, (40, 56)).astype(np.uint8)
SPEC = LabelSpec(tuple("abcde"))


def pair(folder: Path, image: Image.Image, mask: Image.Image, **options: object) -> Pairs:
    image.save(folder / "image.png", **options)
    mask.save(folder / "mask.png")
    return Pairs(folder, (Pair(folder / "image.png", folder / "mask.png"),), SPEC)


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    return pair(tmp_path, Image.fromarray(COLORS), Image.fromarray(LABELS))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("mask_mode", ["L", "P", "I;16"])
def test_a_crop_of_an_opened_sample_is_the_crop_of_the_whole_one(tmp_path, mode, mask_mode):
    image = Image.fromarray(COLORS[..., 0].astype(np.uint16) * 257 if mode == "I;16" else COLORS)
    mask = Image.fromarray(LABELS.astype(np.uint16) if mask_mode == "I;16" else LABELS)
    if mask_mode == "P":
        mask.putpalette(list(range(256)) * 3)
    dataset = pair(tmp_path, image if mode == "I;16" else image.convert(mode), mask)
    assert isinstance(opened(dataset, 0).image, Undecoded)
    for options in ({}, {"class_balanced": 1.0}, {"max_class_share": 0.3}):
        crop = RandomScaleCrop(255, size=(24, 30), scale=(0.4, 2.0), **options)
        for seed in range(12):
            whole = crop(dataset[0], np.random.default_rng(seed))
            part = crop(opened(dataset, 0), np.random.default_rng(seed))
            assert np.array_equal(whole.image, part.image)
            assert np.array_equal(whole.target, part.target)
            assert part.image.dtype == part.target.dtype == np.uint8


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 39), st.integers(0, 55), st.integers(1, 56))
def test_any_window_of_it_is_that_of_the_array(tmp_path_factory, stop, start, left, right):
    folder = tmp_path_factory.mktemp("set")
    sample = opened(pair(folder, Image.fromarray(COLORS), Image.fromarray(LABELS)), 0)
    start, left = min(start, stop - 1), min(left, right - 1)
    assert np.array_equal(sample.image[start:stop, left:right], COLORS[start:stop, left:right])
    assert np.array_equal(sample.target[start:stop, left:right], LABELS[start:stop, left:right])
    assert np.array_equal(np.asarray(sample.image), COLORS)


def test_only_the_rows_down_to_the_end_of_the_window_are_decoded(pairs):
    content = first_rows((pairs.root / "image.png").read_bytes(), 7)
    assert struct.unpack(">II", content[16:24]) == (56, 7)
    assert plain_size(content) == (7, 56)


@pytest.mark.parametrize("file", ["image.png", "mask.png"])
def test_damage_is_an_error_also_where_the_window_does_not_reach(pairs, file):
    crop = compose([RandomScaleCrop(255, size=(4, 4), scale=(1.0, 1.0))])
    sound = (pairs.root / file).read_bytes()
    for place in range(len(sound)):
        broken = bytearray(sound)
        broken[place] ^= 0x10
        assert plain_size(bytes(broken)) is None
    for broken in (sound[:-30], sound[: len(sound) // 2], b""):
        (pairs.root / file).write_bytes(broken)
        found = Source(pairs, crop, 0)[Key(0, 0)]
        assert isinstance(found, DataError)
        assert file in str(found)


def test_other_pngs_are_decoded_whole(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    mask = Image.fromarray(np.ascontiguousarray(np.rot90(LABELS, 3)))
    for options in ({"exif": turned}, {"pnginfo": text}):
        dataset = pair(tmp_path, Image.fromarray(COLORS), mask, **options)
        assert opened(dataset, 0).image.shape == (56, 40, 3)
        assert isinstance(opened(dataset, 0).image, np.ndarray)
    harmless = PngImagePlugin.PngInfo()
    harmless.add_text("Software", "a camera")
    dataset = pair(tmp_path, Image.fromarray(COLORS), Image.fromarray(LABELS), pnginfo=harmless)
    assert isinstance(opened(dataset, 0).image, Undecoded)


def test_interlaced_pngs_are_decoded_whole(pairs):
    content = bytearray((pairs.root / "image.png").read_bytes())
    content[28] = 1
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    assert plain_size(bytes(content)) is None


def test_an_unknown_label_is_told_with_all_of_its_pixels(tmp_path):
    strange = LABELS.copy()
    strange[2:4] = 9
    dataset = pair(tmp_path, Image.fromarray(COLORS), Image.fromarray(strange))
    with pytest.raises(DataError, match=r"mask\.png holds 9 \(112 pixels\)"):
        opened(dataset, 0).target[0:3, 0:10]


def test_sizes_are_compared_before_anything_is_decoded(tmp_path):
    dataset = pair(tmp_path, Image.fromarray(COLORS), Image.fromarray(LABELS[:30]))
    with pytest.raises(DataError, match=r"image\.png is 56x40, but .*mask\.png is 56x30"):
        opened(dataset, 0)


def test_sets_of_sets_open_what_they_hold(pairs):
    merged = binary(of=Concatenated((pairs, pairs)), classes=["b", "d"])
    sample = opened(merged, 1)
    assert isinstance(sample.image, Undecoded)
    assert np.array_equal(sample.target, merged[1].target)


def test_the_loader_opens_samples_only_for_a_crop(tmp_path):
    for kind, array in (("images", COLORS), ("masks", LABELS)):
        (tmp_path / kind / "train").mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / kind / "train" / "a.png")
    dataset = folder_pairs(root=tmp_path, names=list("abcde"))
    crop = RandomScaleCrop(255, size=(24, 30), scale=(0.4, 2.0))
    seen = []

    def look(sample, rng):
        seen.append(type(sample.image))
        return sample

    for epoch in range(4):
        first, later = Source(dataset, compose([crop, look]), 0), Source(dataset, compose([look, crop]), 0)
        one, other = first[Key(epoch, 0)], later[Key(epoch, 0)]
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.target, other.target)
    assert set(seen) == {np.ndarray}
