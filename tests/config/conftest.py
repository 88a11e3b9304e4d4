from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from segtrain.registry import CRITERIA, DATASETS, MODELS, OPTIMIZERS, PIXEL_LOSSES, REGION_LOSSES, TRANSFORMS
from tests.config.toys import COMPONENTS, Workplace


@pytest.fixture(scope="module", autouse=True)
def components() -> Iterator[None]:
    """Nothing but the toys and the schedules is registered, whatever else was imported; afterwards all is as before."""
    with pytest.MonkeyPatch.context() as patch:
        for registry in (MODELS, DATASETS, TRANSFORMS, OPTIMIZERS, PIXEL_LOSSES, REGION_LOSSES, CRITERIA):
            patch.setattr(registry, "_factories", {})
        for registry, name, factory in COMPONENTS:
            patch.setitem(registry._factories, name, factory)
        yield


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture(scope="module")
def one_workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("configs"))
