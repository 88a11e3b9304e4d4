"""Where a model leaves its last upsampling to others, nothing of the size of the logits in full is ever held."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from segtrain import upsampling
from segtrain.evaluator import Evaluator
from segtrain.losses.criterion import bootstrapped_ce
from segtrain.losses.kernels import blocks
from segtrain.precision import Precision
from segtrain.registry import MODELS
from segtrain.task import Batch, Task
from segtrain.upsampling import Upsampled

TASK = Task("segmentation", tuple(map(str, range(150))), ((0, 0, 0),) * 150)
SIDE = 256
FULL = 150 * SIDE * SIDE * 8  # bytes of the logits of one image, in the float64 of the tests' model


@pytest.fixture(autouse=True)
def _small_bands(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 1 << 17)
    monkeypatch.setattr(upsampling, "_BAND", 1 << 17)


def peak(run):
    """The most bytes that `run` holds at one time beside what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = profiled.profiler.kineto_results.events()
    changes = sorted((one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]")
    held = most = 0
    for _, nbytes in changes:
        held += nbytes
        most = max(most, held)
    return most


def of_evaluation(deferred):
    model = MODELS["tiny_upsampled"](150, deferred=deferred)
    image = torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    batch = Batch(image, torch.randint(0, 150, (1, SIDE, SIDE), dtype=torch.uint8), ("a",))
    criterion = bootstrapped_ce(TASK, top_p=0.2)
    evaluator = Evaluator([batch], TASK, criterion, precision=Precision(torch.device("cpu"), "off"), probes=[batch])
    return peak(lambda: evaluator(model, 0))


def of_training(deferred):
    low = torch.randn(1, 150, SIDE // 4, SIDE // 4, dtype=torch.float64, requires_grad=True)
    logits = Upsampled(low, (SIDE, SIDE), (SIDE, SIDE), True)
    target = torch.randint(0, 150, (1, SIDE, SIDE), dtype=torch.uint8)
    criterion = bootstrapped_ce(TASK, top_p=0.2)
    return peak(lambda: criterion(logits if deferred else logits.full(), target, 0).value.backward())


@pytest.mark.parametrize("held", [of_evaluation, of_training])
def test_it_takes_a_part_of_the_memory_of_the_logits(tiny, held):
    assert held(deferred=True) < 0.4 * FULL
    assert held(deferred=False) > FULL
