import os
import sys
from pathlib import Path

import pytest
import torch

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
