"""Pixel losses, reductions and criteria. Importing it registers every loss."""

from segtrain.losses.criterion import Criterion, as_criterion
from segtrain.losses.inspection import Inspection
from segtrain.losses.targets import check_target

__all__ = ["Criterion", "Inspection", "as_criterion", "check_target"]
