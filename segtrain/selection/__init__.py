"""Which entries are taken: exactly so many of the largest of each group, on any device and over ranks."""

from segtrain.selection.cut import Cut, CutSums, share_of
from segtrain.selection.largest import ROUNDING, Taken, asking_is_free, portion_of, sums_of_groups, take_largest

__all__ = [
    "ROUNDING",
    "Cut",
    "CutSums",
    "Taken",
    "asking_is_free",
    "portion_of",
    "share_of",
    "sums_of_groups",
    "take_largest",
]
