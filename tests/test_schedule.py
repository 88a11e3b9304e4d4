import itertools
import math

import pytest

from segtrain.registry import SCHEDULES
from segtrain.schedule import between, constant, cosine, fraction, linear, poly, product, step_at


def test_published_values_of_a_linear_warm_up():
    top_p = between(1.0, 0.15, linear(start=20_000, end=70_000))
    assert [top_p(step) for step in (19_999, 20_000, 45_000, 70_000, 70_001)] == [1.0, 1.0, 0.575, 0.15, 0.15]


@pytest.mark.parametrize(("start", "end"), [(0, 0), (5, 5)])
def test_a_span_without_length_is_a_step(start, end):
    rise = linear(start=start, end=end)
    assert [rise(step) for step in (end - 1, end, end + 1)] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("factory", [linear, cosine, poly])
def test_rises_go_from_zero_to_one_without_falling(factory):
    rise = factory(start=10, end=30)
    values = [rise(step) for step in range(50)]
    assert values[:11] == [0.0] * 11
    assert values[30:] == [1.0] * 20
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert 0 < values[11] < values[29] < 1


@pytest.mark.parametrize("factory", [linear, cosine, poly])
def test_a_rise_without_an_end_takes_the_whole_run(factory):
    rise = factory(200)
    assert rise(0) == 0
    assert 0 < rise(199) < 1
    assert rise(200) == 1


@pytest.mark.parametrize("factory", [linear, cosine, poly])
@pytest.mark.parametrize(("start", "end"), [(3, 2), (-1, 2)])
def test_a_span_that_runs_backwards_is_refused(factory, start, end):
    with pytest.raises(ValueError, match=f"start {start} and end {end}"):
        factory(start=start, end=end)


def test_poly_is_the_published_decay():
    decay = between(1.0, 0.0, poly(100, power=0.9))
    assert all(math.isclose(decay(step), (1 - step / 100) ** 0.9) for step in range(101))


def test_cosine_is_half_a_wave():
    decay = between(1.0, 0.0, cosine(100))
    assert all(math.isclose(decay(t), (1 + math.cos(math.pi * t / 100)) / 2, abs_tol=1e-12) for t in range(101))


def test_the_ends_of_between_are_exact():
    value = between(0.1, 0.3, linear(start=0, end=7))
    assert (value(0), value(7)) == (0.1, 0.3)


def test_a_product_multiplies():
    value = product([step_at(at=2), constant(value=0.5), linear(start=0, end=4)])
    assert [value(step) for step in range(5)] == [0, 0, 0.25, 0.375, 0.5]


def test_fraction_counts_from_start_to_end():
    assert [fraction(step, 2, 6) for step in (0, 2, 3, 6, 9)] == [0, 0, 0.25, 1, 1]


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_every_registered_schedule_is_documented(name):
    assert SCHEDULES[name].__doc__
