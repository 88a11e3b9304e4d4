"""The selection of the GPU under Triton's interpreter against the one of torch; test_gpu_kernels.py runs this file."""

import math

import pytest
import torch

from segtrain import radix
from segtrain.largest import take_largest

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
        share, threshold = radix.take(scores, mask, amount, over_ranks=True)
        expected = take_largest(scores, mask.double(), amount)
        assert torch.equal(share, expected.share)
        torch.testing.assert_close(threshold, expected.threshold, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(share.sum(1), amount)


def test_the_operator_is_registered_as_torch_wants_it():
    given = (torch.randn(2, 9), torch.rand(2, 9) < 0.9, torch.tensor([2.0, 3.0]).double(), True)
    torch.library.opcheck(radix._take, given, test_utils=("test_schema", "test_faketensor"))


def test_nothing_is_taken_of_nothing():
    nothing = torch.zeros(2, 0)
    share, threshold = radix.take(nothing, nothing.bool(), torch.zeros(2).double(), over_ranks=False)
    assert share.shape == (2, 0)
    assert threshold.isnan().all()
    assert (
        radix.take(torch.zeros(0, 3), torch.zeros(0, 3).bool(), torch.zeros(0).double(), over_ranks=False)[0].numel()
        == 0
    )
