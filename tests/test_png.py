"""PNGs written row by row are those that everybody reads, whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.png import PngRows

PALETTE = [(0, 0, 0), (255, 0, 0), (3, 7, 11)]


@pytest.mark.parametrize("size", [(1, 1), (37, 5), (64, 300)])
@pytest.mark.parametrize("rows", [1, 10, 1000])
def test_indices_and_colours_come_back_as_they_were(in_tmp, size, rows):
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 3, size, dtype=np.uint8)
    colors = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    for array, palette in ((indices, PALETTE), (colors, None)):
        with PngRows(Path("a.png"), size, palette) as file:
            for top in range(0, size[0], rows):
                file.add(array[top : top + rows])
        with Image.open("a.png") as image:
            image.load()
            assert image.mode == ("P" if palette else "RGB")
            assert np.array_equal(np.asarray(image), array)
            if palette:
                assert image.getpalette()[:9] == [value for color in PALETTE for value in color]


def interrupted():
    with PngRows(Path("a.png"), (2, 2), PALETTE) as file:
        file.add(np.zeros((2, 2), np.uint8))
        raise ZeroDivisionError


def too_short():
    with PngRows(Path("a.png"), (2, 2), PALETTE) as file:
        file.add(np.zeros((1, 2), np.uint8))


def test_an_error_or_a_missing_row_leaves_what_was_there(in_tmp):
    Path("a.png").write_text("before")
    with pytest.raises(ZeroDivisionError):
        interrupted()
    with pytest.raises(ValueError, match=r"1 rows of a\.png are missing"):
        too_short()
    assert Path("a.png").read_text() == "before"
    assert [path.name for path in in_tmp.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "rows",
    [np.zeros((3, 4), np.uint8), np.zeros((2, 5), np.uint8), np.zeros((2, 4), np.int64)],
    ids=["many", "wide", "long"],
)
def test_rows_of_another_form_are_refused(in_tmp, rows):
    with pytest.raises(ValueError, match="size"):
        PngRows(Path("a.png"), (0, 4))
    with PngRows(Path("a.png"), (2, 4), PALETTE) as file:
        with pytest.raises(ValueError, match="expected uint8 and 2 more of"):
            file.add(rows)
        file.add(np.zeros((2, 4), np.uint8))
