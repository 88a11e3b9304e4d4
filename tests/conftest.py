import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
torch.set_num_threads(1)  # bit-identity is promised at a fixed thread count, and small tensors gain nothing from more


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real datasets; tests that need it skip without it."""
    root = os.environ.get("SEGTRAIN_DATA")
    if not root:
        pytest.skip("SEGTRAIN_DATA is not set")
    return Path(root)
