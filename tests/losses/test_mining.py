"""Selection: exact, whatever the ties, the type and the groups."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.losses.maps import LossMap, reduced
from segtrain.losses.mining import Threshold, hardest
from segtrain.schedule import linear, step_at
from segtrain.selection import take_largest
from segtrain.selection.largest import _take_in_a_graph
from tests import reference

floats = st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45]))


def as_map(hardness, valid=None):
    hardness = torch.as_tensor(hardness)
    valid = torch.ones_like(hardness, dtype=torch.bool) if valid is None else valid
    kept = torch.where(valid, hardness, 0.0)
    return LossMap(kept, valid.to(hardness.dtype), kept, valid)


def select(rule, hardness, valid=None, target=None, step=0, classes=2):
    losses = as_map(hardness, valid)
    target = torch.zeros(losses.valid.shape, dtype=torch.uint8) if target is None else target
    return rule(losses, step, target, classes)


@given(st.lists(floats, min_size=1, max_size=40), st.data(), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=200, deadline=None)
def test_the_largest_are_taken_as_a_sort_would(scores, data, dtype):
    k = data.draw(st.integers(0, len(scores)))
    taken = take_largest(
        torch.tensor(scores, dtype=dtype), torch.ones(len(scores)).double(), torch.tensor([k]).double()
    )
    ordered = np.array(scores, dtype=str(dtype).removeprefix("torch."))
    ordered[ordered == 0] = 0.0
    ranks = np.sort(ordered)[::-1]  # NaN come first
    nans = int(np.isnan(ordered).sum())
    expected = np.zeros(len(scores))
    if 0 < k <= nans:
        expected[np.isnan(ordered)] = k / nans
    elif k:
        threshold = ranks[k - 1]
        above = (ordered > threshold) | np.isnan(ordered)
        expected[above] = 1
        tied = ordered == threshold
        expected[tied] = (k - above.sum()) / tied.sum()
        assert taken.threshold.item() == threshold
    np.testing.assert_allclose(taken.share.numpy(), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_mask_is_available_as_ones_and_zeros_are(grouped, dtype):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(600, generator=generator, dtype=dtype).round(decimals=1)
    scores[::50], scores[1::50], scores[2::50] = math.nan, -math.inf, -torch.finfo(dtype).max
    mask = torch.rand(600, generator=generator) < 0.5
    groups = torch.arange(600) % 3 if grouped else None
    if grouped:
        mask &= groups != 2  # a group with nothing to give
    there = torch.ones(600, dtype=torch.long) if groups is None else groups
    most = torch.zeros(3).double().scatter_add(0, there, mask.double()) if grouped else mask.sum().double()[None]
    in_a_graph = torch.compile(take_largest, backend="eager", fullgraph=True)  # as on a GPU
    for part in (0.0, 0.01, 0.3, 1.0):  # 0.01: fewer than there are NaN
        amount = (part * most).floor()
        expected = take_largest(scores, mask.double(), amount, groups)
        for take in (take_largest, in_a_graph):
            share, threshold = take(scores, mask, amount, groups)
            torch.testing.assert_close((share.double(), threshold), expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(expected.share.sum(), amount.sum())


def test_scores_that_differ_in_the_last_bit_are_told_apart():
    for dtype in (torch.float32, torch.float64):
        one = torch.tensor(1.0, dtype=dtype)
        scores = torch.stack([one, torch.nextafter(one, 2 * one), -one, torch.nextafter(-one, one)])
        for k, order in enumerate([[1], [1, 0], [1, 0, 3]], start=1):
            share = take_largest(scores, torch.ones(4).double(), torch.tensor([k]).double()).share
            assert share.nonzero().flatten().tolist() == sorted(order)


def test_the_part_that_ties_give_is_as_exact_as_float64():
    for amount in (2.1, 4_000_001.3):
        scores = torch.ones(int(amount) + 2)
        scores[0] = 2.0
        share = take_largest(scores, scores > 0, torch.tensor([amount], dtype=torch.float64)).share
        assert share.sum().item() == pytest.approx(amount, rel=1e-12)
        assert share[1].item() == pytest.approx((amount - 1) / (len(scores) - 1), rel=1e-14)


def test_a_map_in_float64_is_shared_out_in_float64():
    losses = as_map(torch.ones(3, dtype=torch.float64))
    selection = hardest(1 / 3)(losses, 0, torch.zeros(3, dtype=torch.uint8), 2)
    sums = reduced(losses, selection.kept)
    for one in (sums.total, sums.count, selection.logs["hardness_kept"]):
        assert float(one) == pytest.approx(1, rel=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_compiler_is_told_the_truth_of_what_it_does_not_look_into(dtype):
    scores = torch.arange(70, dtype=dtype).view(2, 5, 7)
    turned = scores.transpose(1, 2).contiguous().transpose(1, 2)
    for layout in (scores, turned, scores[..., ::2]):
        for available in (scores > 9, turned > 9):
            there = available[..., ::2] if layout.shape != scores.shape else available
            for amount in (0.0, 3.0, 3.5):
                given = (layout, there, torch.tensor([amount]).double())
                torch.library.opcheck(_take_in_a_graph, given, test_utils=("test_schema", "test_faketensor"))


def test_a_threshold_of_zero_has_no_sign():
    scores = torch.tensor([-0.0, -0.0, 0.0, 1.0])
    for available in (torch.ones(4, dtype=torch.bool), torch.ones(4).double()):
        for amount in (2.0, 3.0, 4.0):
            assert not take_largest(scores, available, torch.tensor([amount]).double()).threshold.signbit().any()


def test_groups_take_their_own():
    scores = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    group = torch.tensor([0, 1, 0, 1, 1, 0])
    taken = take_largest(scores, torch.ones(6).double(), torch.tensor([1.0, 2.0]).double(), group)
    assert taken.share.tolist() == [1, 1, 0, 1, 0, 0]
    assert taken.threshold.tolist() == [5.0, 2.0]


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.floats(0.01, 1),
    st.floats(0, 0.9),
    st.integers(0, 5),
    st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_what_is_kept_is_counted_exactly_with_every_option(values, p, skip, per_class, seed):
    generator = torch.Generator().manual_seed(seed)
    hardness = torch.tensor(values, dtype=torch.float32)
    labels = torch.randint(0, 3, hardness.shape, generator=generator)
    valid = torch.rand(hardness.shape, generator=generator) < 0.8
    selection = select(hardest(p, None, "batch", skip, per_class), hardness, valid, labels, classes=3)
    n = int(valid.sum())
    left = n - math.floor(skip * n + 1e-6)
    k = min(left, reference.kept_count(p, n)) if n else 0
    share = selection.share
    assert ((share >= 0) & (share <= 1)).all()
    assert share[~valid].sum() == 0
    assert share.sum().item() == pytest.approx(k, abs=1e-9) or (per_class and share.sum() > k)
    if per_class and not skip:
        reserved = [min(per_class, int((valid & (labels == c)).sum())) for c in range(3)]
        assert share.sum().item() == pytest.approx(max(k, sum(reserved)), abs=1e-9)
        for c, number in enumerate(reserved):
            assert share[labels == c].sum() >= number - 1e-9


def test_the_hardest_finite_ones_can_be_skipped():
    hardness = torch.arange(20.0)
    share = select(hardest(0.25, None, "batch", 0.1), hardness).share
    assert share.nonzero().flatten().tolist() == [13, 14, 15, 16, 17]
    hardness[3] = math.nan
    assert select(hardest(0.25, None, "batch", 0.1), hardness).share[3] == 1
    hardness[3] = math.inf
    assert select(hardest(0.25, None, "batch", 0.1), hardness).share[3] == 1
    rest = select(hardest(1.0, None, "batch", 0.1), torch.arange(2.0, 22.0))
    assert rest.share.tolist() == [1.0] * 18 + [0.0] * 2
    assert rest.threshold.tolist() == [2.0]


def test_each_class_keeps_its_hardest_pixels():
    hardness = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 0.5, 0.2, 0.1])
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    share = select(hardest(0.5, None, "batch", 0.0, 1), hardness, target=labels, classes=3).share
    assert share.tolist() == [1, 1, 0, 0, 1, 0, 0, 1]
    share = select(hardest(0.125, None, "batch", 0.0, 2), hardness, target=labels, classes=3).share
    assert share.tolist() == [1, 1, 0, 0, 1, 1, 0, 1]


def test_each_image_keeps_its_own_share():
    hardness = torch.stack([torch.arange(8.0), torch.arange(8.0) / 100])[:, None]
    valid = torch.ones_like(hardness, dtype=torch.bool)
    valid[1, 0, :4] = False
    selection = select(hardest(0.5, None, "image"), hardness, valid)
    assert selection.share.sum((1, 2)).tolist() == [4, 2]
    torch.testing.assert_close(selection.threshold, torch.tensor([4.0, 0.06]))


def test_the_warm_up_is_a_number_or_a_schedule():
    hardness = torch.arange(100.0)
    kept = [select(hardest(0.25, 3), hardness, step=step).share.sum().item() for step in range(5)]
    assert kept == [100, 100, 100, 25, 25]
    rule = hardest(0.2, linear(start=1, end=3))
    assert [select(rule, hardness, step=step).share.sum().item() for step in range(5)] == [100, 100, 60, 20, 20]
    rule = hardest(0.2, step_at(at=2))
    assert [select(rule, hardness, step=step).share.sum().item() for step in (1, 2)] == [100, 20]


def test_a_schedule_that_leaves_the_range_is_an_error():
    with pytest.raises(ValueError, match=r"the share of mined pixels -1\.4"):
        select(hardest(0.2, lambda step: 3.0), torch.arange(4.0))


def test_pixels_below_a_probability_are_kept_but_at_least_some():
    hardness = -torch.tensor([0.9, 0.8, 0.6, 0.1]).log()
    assert select(Threshold(0.7, 1), hardness).share.tolist() == [0, 0, 1, 1]
    assert select(Threshold(0.7, 3), hardness).share.tolist() == [0, 1, 1, 1]
    assert select(Threshold(0.7, 9), hardness).share.tolist() == [1, 1, 1, 1]
    assert select(Threshold(0.05, 2), torch.ones(4)).share.tolist() == [0.5] * 4
    nothing = select(Threshold(0.7, 9), hardness, torch.zeros(4, dtype=torch.bool))
    assert nothing.share.sum() == 0


def test_the_statistics_are_those_of_the_selection():
    hardness = torch.tensor([[[4.0, 3.0], [2.0, 1.0]], [[0.5, 0.25], [0.1, 9.0]]])
    valid = torch.ones_like(hardness, dtype=torch.bool)
    valid[1, 1, 1] = False
    logs = select(hardest(3 / 7), hardness, valid).logs
    assert {key: round(float(log), 6) for key, log in logs.items()} == {
        "kept": 3,
        "valid": 7,
        "hardness_kept": 9,
        "hardness_all": 10.85,
        "threshold": 2,
        "thresholds": 1,
        "top_p": round(3 / 7, 6),
    }


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: hardest(0.5, None, "pixel"), "scope 'pixel'; expected 'batch', 'rank' or 'image'"),
        (lambda: hardest(0.5, None, "batch", 1.0), "skip_hardest 1.0"),
        (lambda: hardest(0.5, None, "batch", math.nan), "skip_hardest nan"),
        (lambda: hardest(0.5, None, "batch", 0.0, -1), "min_per_class -1"),
        (lambda: Threshold(1.5, 1), "threshold 1.5; expected a probability"),
        (lambda: Threshold(0.7, 0), "min_kept 0; expected a number of pixels >= 1"),
        (lambda: select(hardest(0.5, None, "image"), torch.ones(4)), "scope 'image' with one entry per sample"),
        (
            lambda: select(hardest(0.5, None, "batch", 0.0, 1), torch.ones(4), target=torch.ones(4, 2)),
            r"min_per_class with a target of shape \(4, 2\)",
        ),
    ],
)
def test_a_bad_argument_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("kind", ["spread", "few values", "a sample of others", "sorted", "NaN and infinity"])
def test_the_threshold_among_many_scores_is_that_of_sorting(kind):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(300, 401, generator=generator)
    if kind == "few values":
        scores = (4 * scores).round()
    elif kind == "a sample of others":
        scores.view(-1)[:: scores.numel() // (1 << 12) | 1] += 7.0  # of what is looked at first
    elif kind == "sorted":
        scores = scores.flatten().sort().values.view_as(scores)
    elif kind == "NaN and infinity":
        scores.view(-1)[::50], scores.view(-1)[::70], scores.view(-1)[::90] = torch.nan, torch.inf, -torch.inf
    available = torch.rand(scores.shape, generator=generator) < 0.8
    order = scores[available].sort(descending=True).values  # NaN first
    for amount in (1, 17, 1000, 30_000, len(order) - 1, len(order)):
        share, threshold = take_largest(scores, available, torch.tensor([float(amount)]).double())
        torch.testing.assert_close(threshold[0], order[amount - 1], equal_nan=True, rtol=0, atol=0)
        assert float(share.double().sum()) == pytest.approx(amount, abs=1e-6)
        assert not share[~available].any()
