"""The selection of the GPU under Triton's interpreter against the one of torch; test_gpu_kernels.py runs this file."""

import math

import pytest
import torch

from segtrain.selection import portion_of, radix, take_largest

SPECIAL = (
    math.nan,
    math.copysign(math.nan, -1),
    math.inf,
    -math.inf,
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    torch.finfo(torch.float32).max,
)


def test_a_portion_is_counted_in_float64():
    mask = torch.ones(1, 1000, dtype=torch.bool)
    scores = torch.rand(1, 1000)
    nearly = (1000, 0.3 - 5e-10), (1000, 0.3 - 2e-9)  # 300 and 299
    for number, p in ((100, 0.29), (1000, 0.29), (1000, 0.999), (3, 0.001), (0, 0.5), *nearly):
        share = torch.tensor([p], dtype=torch.float64)
        cut = radix.take(scores[:, :number], mask[:, :number], share, portion=True, over_ranks=False)
        assert cut.share.sum() == portion_of(p, torch.tensor(float(number)).double())


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("length", "decimals"), [(1, 9), (7, 0), (5000, 1), (5000, 9)])
def test_the_same_is_taken(monkeypatch, length, decimals, groups):
    monkeypatch.setattr(radix, "_PROGRAMS", groups)  # one program counts several blocks
    generator = torch.Generator().manual_seed(length)
    scores = torch.randn(groups, length, generator=generator).round(decimals=decimals)
    at = torch.randint(0, length, (len(SPECIAL),), generator=generator)
    scores[:, at] = torch.tensor(SPECIAL)
    mask = torch.rand(groups, length, generator=generator) < 0.7
    if groups > 1:
        mask[1] = False  # a group with nothing to give
    there = mask.sum(1).double()
    for part in (0.0, 0.001, 0.3, 1.0):
        amount = (part * there).floor()
        cut = radix.take(scores, mask, amount, portion=False, over_ranks=True)
        expected = take_largest(scores, mask.double(), amount)
        assert torch.equal(cut.share, expected.share)
        torch.testing.assert_close(cut.threshold, expected.threshold, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(cut.share.sum(1), amount)


def test_zeros_of_both_signs_tie():
    scores, mask = torch.tensor([[1.0, 0.0, -0.0, 0.0]]), torch.ones(1, 4, dtype=torch.bool)
    cut = radix.take(scores, mask, torch.tensor([2.0]).double(), portion=False, over_ranks=False)
    torch.testing.assert_close(cut.share, torch.tensor([[1, 1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64))


@pytest.mark.parametrize("portion", [False, True])
def test_a_group_extends_over_ranks(monkeypatch, portion):
    # two ranks with the same entries have twice as many of each
    monkeypatch.setattr(radix, "world_size", lambda: 2)
    monkeypatch.setattr(radix, "sum_over_ranks", lambda counts: 2 * counts)
    scores = torch.rand(1, 501, generator=torch.Generator().manual_seed(0)).round(decimals=2)
    mask = torch.arange(501)[None] % 3 > 0
    number = 2 * mask.sum()
    k = portion_of(0.301, number.double()) if portion else torch.tensor(77.0).double()
    amount = torch.tensor([0.301], dtype=torch.float64) if portion else k[None]
    together = take_largest(scores.expand(2, -1).reshape(1, -1), mask.expand(2, -1).reshape(1, -1), k[None])
    cut = radix.take(scores, mask, amount, portion=portion, over_ranks=True)
    assert k % 2 == 1  # the ranks share an entry
    torch.testing.assert_close(cut.share.sum(), k / 2)
    torch.testing.assert_close(cut.share[0], together.share.view(2, -1)[0].double())
    assert torch.equal(cut.threshold, together.threshold)
    alone = radix.take(scores, mask, torch.tensor([7.0]).double(), portion=False, over_ranks=False)
    assert alone.share.sum() == 7


def test_the_operator_is_registered_as_torch_wants_it():
    given = (torch.randn(2, 9), torch.rand(2, 9) < 0.9, torch.tensor([0.2, 0.3]).double(), True, True)
    torch.library.opcheck(radix._take, given, test_utils=("test_schema", "test_faketensor"))


def test_nothing_is_taken_of_nothing():
    nothing = torch.zeros(2, 0)
    cut = radix.take(nothing, nothing.bool(), torch.zeros(2).double(), portion=False, over_ranks=False)
    assert cut.share.shape == (2, 0)
    assert cut.threshold.isnan().all()
    nobody = torch.zeros(0, 3)
    nobody = radix.take(nobody, nobody.bool(), torch.zeros(0).double(), portion=True, over_ranks=False)
    assert nobody.share.shape == (0, 3)
