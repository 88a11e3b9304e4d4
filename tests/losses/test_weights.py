import math

import pytest

from segtrain.losses.weights import effective_number, inverse_frequency, median_frequency, weight_tensor

COUNTS = [600, 300, 100, 0]


def test_inverse_frequency_makes_the_mean_weight_of_a_pixel_one():
    weights = inverse_frequency(COUNTS)
    assert weights == pytest.approx([1000 / 1800, 1000 / 900, 1000 / 300, 1.0])
    assert sum(w * n for w, n in zip(weights, COUNTS, strict=True)) / 1000 == pytest.approx(1)


def test_median_frequency_counts_only_images_that_hold_the_class():
    assert median_frequency(COUNTS, [1000, 600, 500, 0]) == pytest.approx([0.5 / 0.6, 1.0, 0.5 / 0.2, 1.0])


def test_effective_number_goes_from_equal_weights_to_inverse_frequency():
    assert effective_number(COUNTS, 0.0) == pytest.approx([1.0] * 4)
    near = effective_number(COUNTS, 1 - 1e-9)
    assert near[2] / near[0] == pytest.approx(6, rel=1e-4)
    plain = [(1 - 0.99) / (1 - 0.99**n) for n in COUNTS[:3]]
    assert effective_number(COUNTS, 0.99)[:3] == pytest.approx([w * 3 / sum(plain) for w in plain])


def test_nothing_counted_gives_equal_weights():
    for weights in (inverse_frequency([0, 0]), median_frequency([0, 0], [0, 0]), effective_number([0, 0])):
        assert weights == [1.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, math.nan], "class weights hold 1: nan"),
        ([-1.0, 1.0], "class weights hold 0: -1.0"),
        ([1.0, math.inf], "class weights hold 1: inf"),
        ([0.0, 0.0], "all 0"),
        ([1.0, 2.0, 3.0], "3 class weights; expected one for each of the 2 classes"),
    ],
)
def test_what_is_no_class_weight_is_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        weight_tensor(weights, 2)


def test_beta_is_below_one():
    with pytest.raises(ValueError, match="beta 1; expected 0 <= beta < 1"):
        effective_number(COUNTS, 1)
