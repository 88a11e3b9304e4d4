"""What Linux was asked for, as it tells of a process's memory."""

import mmap
from pathlib import Path

import pytest
import torch

from segtrain.losses.criterion import bootstrapped_ce
from segtrain.losses.kernels.pages import ask_for_large_pages
from segtrain.task import Task

SMAPS = Path("/proc/self/smaps")
LARGE = Path("/sys/kernel/mm/transparent_hugepage")
pytestmark = pytest.mark.skipif(
    not (SMAPS.exists() and "VmFlags" in SMAPS.read_text() and LARGE.exists()), reason="needs large pages of Linux"
)


def asked(address):
    """Whether large pages were asked for the memory there."""
    here = False
    for line in SMAPS.read_text().splitlines():
        name, *rest = line.split()
        if "-" in name and not name.endswith(":"):
            start, end = (int(one, 16) for one in name.split("-"))
            here = start <= address < end
        elif here and name == "VmFlags:":
            return "hg" in rest
    raise AssertionError("nothing is there")


def middle(tensor):
    return tensor.data_ptr() + tensor.nbytes // 2


def mapped(mebibytes):
    """A tensor in memory that nothing else is in, unlike what torch allocates."""
    return torch.frombuffer(mmap.mmap(-1, mebibytes << 20), dtype=torch.uint8)


def test_large_pages_are_asked_for_and_small_tensors_left_alone():
    large, small = mapped(8), mapped(1)
    assert not asked(middle(large))
    for tensor in (large[:0], large, small):
        ask_for_large_pages(tensor)
    assert asked(middle(large))
    assert not asked(middle(small))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_many_logits_is_written_into_large_pages(layout):
    task = Task("segmentation", tuple(map(str, range(19))), ((0, 0, 0),) * 19)
    logits = torch.randn(1, 19, 1024, 1024).to(memory_format=layout).requires_grad_()
    target = torch.randint(0, 19, (1, 1024, 1024))
    bootstrapped_ce(task, top_p=0.15)(logits, target, 0).value.backward()
    assert asked(middle(logits.grad))
