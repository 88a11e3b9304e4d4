"""A disk that is full leaves no part of a picture."""

import os
from pathlib import Path

import numpy as np
import pytest

from segtrain.png import PngRows


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_picture_that_did_not_fit_is_not_left(tmp_path):
    (tmp_path / "a.png.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space"), PngRows(tmp_path / "a.png", (64, 9999)) as png:
        png.add(np.random.default_rng(0).integers(0, 256, (64, 9999, 3), np.uint8))
    assert os.listdir(tmp_path) == []
