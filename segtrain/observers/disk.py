"""Writing logs so that a full or broken disk never stops a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Forgiving:
    """`with forgiving():` around a write: the first OSError becomes a warning, the later ones pass in silence."""

    def __init__(self, what: Path) -> None:
        self._what = what
        self._warned = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._warned:
                self._warned = True
                reason = error.strerror or error
                warnings.warn(
                    f"{self._what} cannot be written: {reason}; training goes on, what cannot be written will be"
                    " missing there, and this is said once",
                    RuntimeWarning,
                    stacklevel=4,
                )
