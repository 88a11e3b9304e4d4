import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # tiny_components, reference
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
torch.set_num_threads(1)  # bit-identity is promised at a fixed thread count, and small tensors gain nothing from more


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real datasets; tests that need it skip without it."""
    root = os.environ.get("SEGTRAIN_DATA")
    if not root:
        pytest.skip("SEGTRAIN_DATA is not set")
    return Path(root)


@pytest.fixture
def tiny():
    """Builds tests/tiny.yaml with overrides."""
    from segtrain.build import build, register_components
    from segtrain.config import load

    register_components(["tiny_components"])

    def make(*overrides, device="cpu", **limits):
        from segtrain.build import Limits

        config, source = load(HERE / "tiny.yaml", overrides)
        return build(config, source, torch.device(device), Limits(**limits))

    return make


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """The test runs in an empty directory, and its processes find the tests' own components."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{HERE.parent}{os.pathsep}{HERE}")
    return tmp_path


COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (210, 40, 50)}


@pytest.fixture
def colors(in_tmp):
    """colors/{train,val}/<class>/*.png in the current directory: images of different sizes, each of one colour."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name, color in COLORS.items():
            folder = in_tmp / "colors" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                size = (*rng.integers(18, 30, 2), 3)
                image = np.clip(rng.normal(color, 20, size), 0, 255).astype(np.uint8)
                Image.fromarray(image).save(folder / f"{index}.png")
    return in_tmp / "colors"


@pytest.fixture
def classifier(colors):
    """Builds tests/tiny_classifier.yaml with overrides, on the images of `colors`."""
    from segtrain.build import Limits, build, register_components
    from segtrain.config import load

    register_components(["tiny_components"])

    def make(*overrides, **limits):
        config, source = load(HERE / "tiny_classifier.yaml", overrides)
        return build(config, source, torch.device("cpu"), Limits(**limits))

    return make
