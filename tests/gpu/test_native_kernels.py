"""The Triton kernels on a GPU, against the plain path in float64; skipped without one."""

import pytest
import torch

from segtrain.losses import BootstrappedBCEWithLogits, channels, kernels, pixel
from segtrain.losses.criterion import bootstrapped_ce
from segtrain.selection import take_largest
from segtrain.task import Task
from segtrain.upsampling import Upsampled

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def scene(shape, dtype, layout=torch.contiguous_format):
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(*shape, generator=generator)).to("cuda", dtype).to(memory_format=layout)
    target = torch.randint(0, min(shape[1], 255), (shape[0], *shape[2:]), generator=generator, dtype=torch.uint8)
    target[:, : shape[2] // 4] = 255
    return logits.requires_grad_(), target.cuda()


LOSSES = {
    "softmax": (pixel.cross_entropy, kernels.cross_entropy),
    "sigmoid": (channels.bce_with_logits, kernels.bce_with_logits),
}


@pytest.mark.parametrize("link", list(LOSSES))
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 2, 33, 17), (2, 19, 130, 257), (1, 150, 64, 64), (1, 300, 9, 7)])
def test_values_and_gradients_are_those_of_the_plain_path(shape, dtype, layout, smoothing, link):
    loss, kernel = LOSSES[link]
    logits, target = scene(shape, dtype, layout)
    weight = torch.linspace(0.1, 3, max(shape[1], 2) if link == "sigmoid" else shape[1], device="cuda")
    assert kernel(logits, target, weight, 255, smoothing) is not None
    share = torch.rand(target.shape, device="cuda").round()
    results = []
    for inputs in (logits, logits.detach().double().requires_grad_()):
        maps = loss(inputs, target, weight=weight, label_smoothing=smoothing)
        (gradient,) = torch.autograd.grad((maps.value * share).sum(), inputs)
        results.append((*maps, gradient))
    for one, other in zip(*results, strict=True):
        half = one.dtype in (torch.bfloat16, torch.float16)
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-2 if half else 1e-5, atol=1e-5)


@pytest.mark.parametrize("link", list(LOSSES))
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 19, 150])
def test_logits_at_low_resolution_are_interpolated_by_the_kernels(classes, dtype, layout, align_corners, link):
    loss, kernel = LOSSES[link]
    low, _ = scene((2, classes, 33, 18), dtype, layout)
    target = scene((2, classes, 130, 71), dtype)[1]
    share = torch.rand(target.shape, device="cuda").round()
    results = []
    for inputs in (low, low.detach().double().requires_grad_()):
        logits = Upsampled(inputs, (132, 72), (130, 71), align_corners)
        assert (kernel(logits, target, None, 255, 0.1) is None) == (inputs is not low)
        maps = loss(logits, target, label_smoothing=0.1)
        results.append((*maps, torch.autograd.grad((maps.value * share).sum(), inputs)[0]))
    for one, other in zip(*results, strict=True):
        rough = one.dtype == torch.bfloat16
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-2 if rough else 1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
def test_the_largest_are_those_that_the_cpu_takes(groups):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(groups, 300_001, generator=generator).round(decimals=3)
    scores[:, ::1000], scores[:, 1::1000] = torch.nan, -torch.inf
    mask = torch.rand(scores.shape, generator=generator) < 0.7
    for part in (0.0, 1e-4, 0.15, 1.0):
        amount = (part * mask.sum(1).double()).floor()
        expected = take_largest(scores, mask, amount)
        taken = take_largest(scores.cuda(), mask.cuda(), amount.cuda())
        torch.testing.assert_close(taken.share.cpu().double(), expected.share.double(), rtol=0, atol=0)
        torch.testing.assert_close(taken.threshold.cpu(), expected.threshold, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "class_weights": [0.0, 2.0] + [1.0] * 17}])
@pytest.mark.parametrize("scope", ["batch", "image"])
@pytest.mark.parametrize("top_p", [1e-4, 0.15, 1.0])
def test_a_criterion_has_the_loss_the_statistics_and_the_gradient_that_it_has_on_the_cpu(top_p, scope, options):
    task = Task("segmentation", tuple(map(str, range(19))), ((0, 0, 0),) * 19)
    logits, target = scene((3, 19, 130, 257), torch.float32)
    criterion, results = bootstrapped_ce(task, top_p=top_p, scope=scope, **options), []
    for device in ("cuda", "cpu"):
        inputs = logits.detach().to(device).requires_grad_()
        loss = criterion.to(device)(inputs, target.to(device), 0)
        loss.value.backward()
        results.append(
            [loss.value.detach().cpu(), {tag: log.cpu() for tag, log in loss.logs.items()}, inputs.grad.cpu()]
        )
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-7)
    assert results[0][1]["mining/kept"] == results[1][1]["mining/kept"]


def test_more_samples_than_the_second_dimension_of_a_grid_takes():
    inputs, targets = torch.randn(70_000, 3), torch.rand(70_000, 3).round()
    results = []
    for device in ("cuda", "cpu"):
        module = BootstrappedBCEWithLogits(0.2)
        loss = module(inputs.to(device), targets.to(device))
        results.append([loss.cpu(), *(number.cpu() for number in module.last)])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scope", ["batch", "image"])
def test_a_mined_step_is_the_same_twice_and_asks_nothing_of_the_host(scope):
    task = Task("segmentation", tuple(map(str, range(19))), ((0, 0, 0),) * 19)
    criterion = bootstrapped_ce(task, top_p=0.2, scope=scope).cuda()
    logits, target = scene((2, 19, 128, 128), torch.float32)
    torch.autograd.grad(criterion(logits, target, 0).value, logits)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [criterion(logits, target, 0).value for _ in range(2)]
        first, second = (torch.autograd.grad(loss, logits)[0] for loss in losses)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, second)


def test_the_gradient_of_logits_at_low_resolution_is_the_same_twice():
    low, _ = scene((2, 19, 65, 33), torch.bfloat16)
    logits, target = Upsampled(low, (260, 132), (257, 130), True), scene((2, 19, 257, 130), torch.bfloat16)[1]
    first, second = (torch.autograd.grad(pixel.cross_entropy(logits, target).value.sum(), low)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_logits_of_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    logits, target = scene((1, 19, 64, 64), torch.float32)
    expected = pixel.cross_entropy(logits, target).value
    there = pixel.cross_entropy(logits.to("cuda:1"), target.to("cuda:1")).value
    assert torch.equal(there.cpu(), expected.cpu())


def test_a_compiled_loss_takes_the_operator():
    logits, target = scene((1, 19, 64, 64), torch.float32)
    plain = pixel.cross_entropy(logits, target).value
    compiled = torch.compile(lambda x: pixel.cross_entropy(x, target).value)(logits)
    torch.testing.assert_close(compiled, plain)
