"""Binary cross entropy by blocks: values and gradients of the plain path in float64, for labels."""

import pytest
import torch

from segtrain.losses import channels, kernels
from segtrain.losses.kernels import binary, blocks
from segtrain.losses.maps import LossMap
from segtrain.upsampling import Upsampled

TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def _several_blocks_per_image(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 64)


def scene(shape, dtype=torch.float32, ignored=0.2):
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(*shape, generator=generator)).to(dtype)
    target = torch.randint(0, max(2, shape[1]), (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target.byte()


def check(logits, target, weight=None, smoothing=0.0):
    share = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)).round()
    given = logits.detach().requires_grad_()
    ours = LossMap(*binary.bce_with_logits(given, target, weight, 255, smoothing))
    precise = logits.detach().double().requires_grad_()
    double = None if weight is None else weight.double()
    theirs = channels.bce_with_logits(precise, target, weight=double, label_smoothing=smoothing)
    (slope,) = torch.autograd.grad((ours.value * share).sum(), given)
    (wanted,) = torch.autograd.grad((theirs.value * share).sum(), precise)
    assert slope.dtype == logits.dtype
    tolerance = TOLERANCE[logits.dtype]
    exact = min(tolerance, 3e-6)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=exact, atol=exact, equal_nan=True)
    torch.testing.assert_close(slope.double(), wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 9, 7), (2, 2, 5, 7), (2, 19, 13, 11), (1, 200, 4, 3)])
def test_values_and_gradients_are_those_of_the_plain_path(shape, dtype):
    logits, target = scene(shape, dtype)
    check(logits, target)
    check(logits.to(memory_format=torch.channels_last), target, smoothing=0.1)
    check(logits, target, torch.linspace(0, 3, max(2, shape[1]), dtype=torch.promote_types(dtype, torch.float32)))


def test_edges():
    logits, target = scene((1, 5, 8, 9), torch.float64)
    check(logits, torch.full_like(target, 255))
    check(logits * 100, target)
    logits[0, :, 2, 3], target[0, 2, 3] = torch.nan, 255
    check(logits, target)
    target[0, 4, 4] = 77  # neither a class nor ignored
    check(logits, target)


def test_a_label_out_of_range_that_is_not_mined_has_no_gradient():
    logits, target = scene((1, 5, 8, 9))
    target[0, 4, 4], target[0, 5, 5] = 77, 77
    share = torch.ones(target.shape)
    share[0, 4, 4] = 0
    given = logits.requires_grad_()
    value = binary.bce_with_logits(given, target, None, 255, 0.0).value
    (slope,) = torch.autograd.grad(value, given, share)
    assert value[0, 4, 4].isnan()
    assert slope[0, :, 5, 5].isnan().all()
    assert (slope[0, :, 4, 4] == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("upsampled", [False, True])
def test_a_second_derivative_and_many_gradients_at_once_are_those_of_the_plain_path(smoothing, upsampled):
    low, target = scene((2, 5, 6, 7), torch.float64)
    low.requires_grad_()
    logits = Upsampled(low, (12, 14), (11, 13), True) if upsampled else low
    target = scene((2, 5, *logits.shape[2:]))[1]
    some = torch.rand(3, *target.shape, dtype=torch.float64)

    def derivatives(value):
        (gradient,) = torch.autograd.grad(value.square().sum(), low, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), low, retain_graph=True)
        (rows,) = torch.autograd.grad(value, low, some, is_grads_batched=True)
        return gradient, second, rows

    full = logits.full() if upsampled else low
    ours = derivatives(binary.bce_with_logits(logits, target, None, 255, smoothing).value)
    theirs = derivatives(channels.bce_with_logits(full, target, label_smoothing=smoothing).value)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("classes", [1, 5])
def test_the_loss_takes_it_for_labels_and_from_low_resolution(monkeypatch, classes):
    monkeypatch.setattr(kernels, "_LARGE", 0)
    low, target = scene((2, classes, 5, 6), torch.float64)
    logits = Upsampled(low.requires_grad_(), (20, 24), (19, 22), True)
    target = scene((2, classes, 19, 22))[1]
    assert kernels.bce_with_logits(logits, target, None, 255, 0.0) is not None
    slopes = []
    for given, pos_weight in ((logits, None), (logits.full(), torch.ones(classes, dtype=torch.float64))):
        losses = channels.bce_with_logits(given, target, pos_weight=pos_weight)  # with it the plain path is taken
        slopes.append(torch.autograd.grad(losses.value.sum(), low)[0])
    torch.testing.assert_close(*slopes)
