"""Schedules: pure functions of the number of finished optimizer steps. No state, so nothing to resume.

The registered ones rise from 0 to 1. What follows them is `between(first, last, rise)`: the share of mined pixels
goes from 1 to top_p, a learning rate from its full value to its final share, the weight of a loss between two values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

from segtrain.registry import SCHEDULES

Schedule = Callable[[int], float]
Rise = Annotated[Schedule, SCHEDULES]  # a component: {name: linear, start: 100, end: 300}


class Duration:
    """Marks a parameter that counts optimizer steps; a config may also give it as a share of the run ("10%")."""


Steps = Annotated[int, Duration]


def fraction(step: int, start: int, end: int) -> float:
    """How much of the way from `start` to `end` is done at `step`, in [0, 1]; `start == end` is a jump to 1."""
    if step >= end:
        return 1.0
    return 0.0 if step <= start else (step - start) / (end - start)


def check_span(start: int, end: int) -> None:
    """Raise ValueError unless 0 <= start <= end."""
    if not 0 <= start <= end:
        raise ValueError(f"start {start} and end {end} do not make a span; needed: 0 <= start <= end")


@SCHEDULES.register("constant")
def constant(run: int = 0, *, value: float = 1.0) -> Schedule:
    """`value` at every step."""
    return lambda step: value


@SCHEDULES.register("step")
def step_at(run: int = 0, *, at: Steps) -> Schedule:
    """0 before step `at`, 1 from it on."""
    return lambda step: float(step >= at)


@SCHEDULES.register("linear")
def linear(run: int = 0, *, start: Steps = 0, end: Steps | None = None) -> Schedule:
    """0 until `start`, a straight line to 1 at `end` (default: the end of the run), then 1."""
    last = run if end is None else end
    check_span(start, last)
    return lambda step: fraction(step, start, last)


@SCHEDULES.register("cosine")
def cosine(run: int = 0, *, start: Steps = 0, end: Steps | None = None) -> Schedule:
    """Half a cosine wave from 0 at `start` to 1 at `end` (default: the end of the run)."""
    last = run if end is None else end
    check_span(start, last)
    return lambda step: (1 - math.cos(math.pi * fraction(step, start, last))) / 2


@SCHEDULES.register("poly")
def poly(run: int = 0, *, power: float = 0.9, start: Steps = 0, end: Steps | None = None) -> Schedule:
    """1 - (1 - t)^power with t the share of the way from `start` to `end`: as a learning rate, the "poly" decay.

    ValueError unless `power` > 0.
    """
    last = run if end is None else end
    check_span(start, last)
    if power <= 0:
        raise ValueError(f"power {power}; expected a number > 0, such as 0.9")
    return lambda step: 1 - (1 - fraction(step, start, last)) ** power


@SCHEDULES.register("between")
def between_(run: int = 0, *, first: float = 0.0, last: float = 1.0, rise: Rise) -> Schedule:
    """`rise` stretched to go from `first` to `last`."""
    return between(first, last, rise)


@SCHEDULES.register("product")
def product_(run: int = 0, *, of: list[Rise]) -> Schedule:
    """The product of several schedules."""
    return product(of)


def between(first: float, last: float, rise: Schedule) -> Schedule:
    """first + (last - first)·rise(step); exactly `first` and `last` at the ends."""

    def value(step: int) -> float:
        share = rise(step)
        return last if share == 1 else first + (last - first) * share

    return value


def product(factors: Sequence[Schedule]) -> Schedule:
    """The product of `factors` at each step."""
    return lambda step: math.prod(factor(step) for factor in factors)
