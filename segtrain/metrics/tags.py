"""What the scalars of an evaluation are called; imports nothing, for commands that only read them."""

from __future__ import annotations

from collections.abc import Mapping

RAW, AVERAGED = "val", "val_ema"  # what the tags of an evaluation begin with, by the weights

BOUNDARY_PX = 3  # width of the boundary IoU of every evaluation
BOUNDARY_TAG = f"{RAW}/boundary_iou_{BOUNDARY_PX}px"


def of_averaged(tag: str) -> str:
    """The tag of the same score of the averaged weights: "val_ema/miou" for "val/miou"."""
    return f"{AVERAGED}/{tag.removeprefix(f'{RAW}/')}"


def scores_of(scalars: Mapping[str, float], weights: str) -> dict[str, float]:
    """The scores of one kind of `weights` (RAW or AVERAGED) as "val/miou" and so on."""
    begin = f"{weights}/"
    return {f"{RAW}/{tag.removeprefix(begin)}": value for tag, value in scalars.items() if tag.startswith(begin)}
