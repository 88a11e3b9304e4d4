"""segtrain: semantic segmentation with hard-pixel mining.

Shapes in comments and docstrings: B batch, C channels (classes), H and W height and width, N samples, K classes,
[B, *] one entry per pixel of a segmentation batch or per sample of a classification batch.
"""

import importlib
import os
from collections.abc import Sequence
from typing import Any

__version__ = "0.1.0"


def load(
    path: str | os.PathLike[str], *, device: Any = "auto", weights: str = "auto", modules: Sequence[str] = ()
) -> Any:
    """A trained model from a run's directory or a checkpoint, ready to be asked: a `segtrain.predictor.Predictor`.

    Its `predict(image)` takes a path, a Pillow image or an array uint8 [H, W, 3] and returns a label map, uint8 [H, W];
    of a classifier, the most probable names. `device`: auto, cpu, cuda, …. `weights`: raw, ema (their average), or
    auto, those that chose the best. `modules` are imported first, for models of your own. Raises CheckpointError and
    ConfigError.
    """
    # imported when it is called: torch takes seconds, and whoever reads the version or the help must not wait for it
    return importlib.import_module("segtrain.predictor").load_predictor(
        path, device=device, weights=weights, modules=modules
    )
