from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.data.scenes import scenes

Save = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "real_data" not in request.fixturenames:
        monkeypatch.delenv("SEGTRAIN_DATA", raising=False)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes an array below tmp_path, as a palette image where a palette is given."""

    def write(name: str, array: np.ndarray, palette: bool = False) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(array)
        if palette:
            image = image.convert("P")
            image.putpalette([value for i in range(256) for value in (i * 7 % 256, i * 13 % 256, i * 29 % 256)])
            image.putdata(array.ravel().tolist())
        image.save(path)
        return path

    return write


@pytest.fixture(scope="session")
def street() -> list[tuple[np.ndarray, np.ndarray]]:
    """A few small scenes: images and train ids."""
    source = scenes(length=6, size=(24, 32))
    return [(source[i].image, source[i].target) for i in range(6)]


@pytest.fixture
def real_data() -> Path:
    import os

    if "SEGTRAIN_DATA" not in os.environ:
        pytest.skip("SEGTRAIN_DATA is not set")
    return Path(os.environ["SEGTRAIN_DATA"])
