import pytest
import torch
from torch import nn

from segtrain.profiling import heaviest, in_words, unmeasured

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


@pytest.mark.parametrize("raises", [False, True])
def test_what_is_aside_is_not_counted_and_what_comes_after_is(raises):
    def other(x):
        x.cumsum(0)
        if raises:
            raise KeyError(x)
        return x + 1

    with torch.profiler.profile() as measured:
        x = torch.ones(4).sinh()
        try:
            assert unmeasured(measured, other)(x)[0] == x[0] + 1
        except KeyError:
            assert raises
        x.cosh()
    found = {event.key for event in measured.key_averages()}
    assert {"aten::sinh", "aten::cosh"} <= found
    assert "aten::cumsum" not in found
