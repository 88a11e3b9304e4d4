import pytest
import torch
from torch import nn

from segtrain.profiling import heaviest, in_words

STEPS = 3


@pytest.fixture(scope="module")
def parts():
    layer, x = nn.Conv2d(8, 8, 3), torch.randn(2, 8, 32, 32)
    with torch.profiler.profile() as measured:
        for _ in range(STEPS):
            layer(x).relu().sum().backward()
    return heaviest(measured, STEPS)


def test_the_heaviest_kinds_of_work_come_first_and_share_the_whole(parts):
    shares = [part.share for part in parts]
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < sum(shares) <= 1
    assert len(parts) <= 10


def test_operations_of_one_kind_are_one_part_with_its_calls_per_step(parts):
    backward = next(part for part in parts if part.words == "convolutions, backward")
    assert any("convolution_backward" in name for name in backward.names)
    assert backward.calls == pytest.approx(round(backward.calls))
    assert backward.seconds > 0


def test_each_part_is_a_line_that_names_the_work_and_its_operations(parts):
    lines = list(in_words(parts))
    assert len(lines) == len(parts)
    assert any("convolutions, backward" in line and "ms/step" in line for line in lines)
