"""Fast paths: values and gradients of the slow float64 reference, whatever the shape, the type and the layout."""

import math

import numpy as np
import pytest
import torch
from reference import mined_cross_entropy

from segtrain.losses import kernels, pixel
from segtrain.losses.kernels import binary, blocks, graph
from segtrain.losses.maps import LossMap, divide, reduced
from segtrain.losses.mining import hardest
from segtrain.upsampling import Upsampled

CROSS_ENTROPY = pytest.mark.parametrize("kernel", [blocks.cross_entropy, graph.cross_entropy])
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


@pytest.fixture(autouse=True)
def _several_blocks_per_image(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 64)


def scene(shape, dtype=torch.float32, *, spread=2.0, seed=0, ignored=0.2, label=torch.uint8):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(*shape, generator=generator) * spread).to(dtype)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    ignore_index = 255 if shape[1] <= 255 else -100
    target[torch.rand(target.shape, generator=generator) < ignored] = ignore_index
    return logits, target if shape[1] > 255 else target.to(label), ignore_index


def check(
    logits, target, p=1.0, ignore_index=255, *, weight=None, smoothing=0.0, scope="batch", kernel=blocks.cross_entropy
):
    """The mined mean of the kernel's map and its gradient against the reference."""
    logits = logits.detach().requires_grad_()
    losses = LossMap(*kernel(logits, target, weight, ignore_index, smoothing))
    chosen = hardest(p, scope=scope)(losses, 0, target, max(2, logits.shape[1]))
    sums = reduced(losses, chosen.share)
    value = divide(sums.total, sums.count)
    (gradient,) = torch.autograd.grad(value, logits)
    expected, slope = mined_cross_entropy(
        logits.detach().double().numpy(),
        target.numpy(),
        p,
        weight=None if weight is None else weight.numpy(),
        ignore_index=ignore_index,
        smoothing=smoothing,
        scope=scope,
        hardness=losses.hardness.double().numpy().ravel(),
    )
    assert gradient.dtype == logits.dtype
    assert losses.value.dtype == (torch.float64 if logits.dtype == torch.float64 else torch.float32)
    tolerance = TOLERANCE[logits.dtype]
    loss_tolerance = min(tolerance, TOLERANCE[torch.float32])  # half precision is read exactly, its gradient rounded
    np.testing.assert_allclose(value.item(), expected, rtol=loss_tolerance, atol=loss_tolerance)
    scale = max(np.abs(slope).max(), 1e-30)
    np.testing.assert_allclose(gradient.double().numpy() / scale, slope / scale, rtol=tolerance, atol=3 * tolerance)
    return losses, gradient


@CROSS_ENTROPY
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 2, 5, 7), (3, 3, 1, 9), (2, 19, 13, 11), (1, 150, 9, 5), (1, 300, 4, 3), (2, 5, 40, 1)]
)
def test_values_and_gradients_are_those_of_the_reference(shape, dtype, kernel):
    for p in (1.0, 0.3):
        check(*scene(shape, dtype)[:2], p, scene(shape)[2], kernel=kernel)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["channels_last", "cropped", "transposed", "offset"])
def test_any_layout_gives_the_same_and_its_gradient_back(layout, dtype):
    logits, target, _ = scene((2, 19, 12, 10), dtype)
    plain, gradient = check(logits, target, 0.4)
    if layout == "channels_last":
        other = logits.to(memory_format=torch.channels_last)
    elif layout == "cropped":
        other = torch.nn.functional.pad(logits, (0, 6, 0, 4))[..., :12, :10]
    elif layout == "transposed":
        other = logits.transpose(2, 3).contiguous().transpose(2, 3)
    else:
        other = torch.cat([logits, logits], 1)[:, 19:]
    again, its_gradient = check(other, target, 0.4)
    torch.testing.assert_close(again.value, plain.value, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(its_gradient, gradient)


@CROSS_ENTROPY
@pytest.mark.parametrize("scope", ["batch", "image"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_weights_smoothing_and_scope(weighted, smoothing, scope, kernel):
    weight = torch.tensor([0.0, 0.5, 1.0, 3.0, 10.0]) if weighted else None
    for dtype in (torch.float32, torch.float64):
        logits, target, _ = scene((3, 5, 9, 8), dtype)
        weights = None if weight is None else weight.to(dtype)
        check(logits, target, 0.3, weight=weights, smoothing=smoothing, scope=scope, kernel=kernel)


@pytest.mark.parametrize("kernel", [blocks.cross_entropy, graph.cross_entropy, binary.bce_with_logits])
@pytest.mark.parametrize(
    "label", [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32]
)
def test_labels_of_any_integer_type(label, kernel):
    logits, target, _ = scene((2, 7, 6, 5), label=torch.int64)
    target[target == 255] = 100  # int8 has it too
    for ignore_index in (100, 3, -100, 300):  # under the last two what was ignored is out of range
        given, expected = (kernel(logits, one, None, ignore_index, 0.0) for one in (target.to(label), target))
        torch.testing.assert_close(given, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kernel", [blocks.cross_entropy, binary.bce_with_logits])
@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_tensors_made_elsewhere_by_default_are_not_mixed_in(ignored, kernel):
    logits, target, _ = scene((2, 5, 6, 7), ignored=ignored)
    logits.requires_grad_()
    with torch.device("meta"):
        value = kernel(logits, target, None, 255, 0.1).value
        (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.device == gradient.device == torch.device("cpu")


def test_huge_logits_keep_their_differences():
    logits, target, _ = scene((2, 19, 8, 8))
    check(logits + 1e4, target)
    check(logits - 1e4, target)
    check(logits * 5e3, target)


def test_ties_share_and_an_ignored_batch_is_a_connected_zero():
    logits, target, _ = scene((2, 4, 8, 8))
    check(torch.zeros_like(logits), target, 0.3)
    _, gradient = check(logits, torch.full_like(target, 255), 0.3)
    assert not gradient.any()


@CROSS_ENTROPY
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_where_it_is(bad, kernel):
    logits, target, _ = scene((1, 5, 6, 6), ignored=0.0)
    target[0, 2, 3] = 255
    logits[0, :, 2, 3] = bad
    _, gradient = check(logits, target, 0.5, kernel=kernel)  # under an ignored label it is nothing
    assert not gradient[0, :, 2, 3].any()
    logits[0, :, 4, 1] = bad  # under a label it reaches the loss and that pixel's gradient only
    logits.requires_grad_()
    losses = LossMap(*kernel(logits, target, None, 255, 0.0))
    assert losses.value.isnan().sum() == losses.hardness.isnan().sum() == 1
    (gradient,) = torch.autograd.grad(losses.value.sum(), logits)
    assert gradient.isnan().any(1).sum() == 1
    assert gradient[0, :, 4, 1].isnan().all()
    losses = LossMap(*kernel(logits, target, None, 255, 0.0))
    (gradient,) = torch.autograd.grad(losses.value[0, :4].sum(), logits)
    assert not gradient[0, :, 4:].any()  # nor there if that pixel is not kept


@CROSS_ENTROPY
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("slope", [1.0, -1.0, math.inf])
def test_whatever_the_slope_an_ignored_pixel_has_no_gradient_and_the_others_have_one(slope, smoothing, kernel):
    logits, target, _ = scene((2, 5, 6, 6))
    logits.requires_grad_()
    value = kernel(logits, target, None, 255, smoothing).value
    (gradient,) = torch.autograd.grad(value, logits, torch.full_like(value, slope))
    assert torch.equal(gradient.any(1), target != 255)  # NaN is something
    if slope == -1:
        assert torch.equal(
            -gradient, torch.autograd.grad(kernel(logits, target, None, 255, smoothing)[0].sum(), logits)[0]
        )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel", [blocks.cross_entropy, binary.bce_with_logits])
def test_rows_of_which_nothing_is_kept_have_a_gradient_of_zeros(kernel, layout, monkeypatch):
    logits, target, _ = scene((3, 5, 6, 6), ignored=0.0)
    logits = logits.to(memory_format=layout).requires_grad_()
    dirty = lambda like: torch.full_like(like, 7.0)  # noqa: E731  # memory that was used before
    monkeypatch.setattr(blocks.torch, "empty_like", lambda like, **options: dirty(like).to(options.get("dtype")))
    value = kernel(logits, target, None, 255, 0.0).value
    (gradient,) = torch.autograd.grad(value[1, 3:].sum(), logits)
    assert gradient[1, :, 3:].all()
    assert not gradient[[0, 2]].any()
    assert not gradient[1, :, :3].any()


@pytest.mark.parametrize("kernel", [blocks.cross_entropy, graph.cross_entropy, binary.bce_with_logits])
@pytest.mark.parametrize("wrong", [-3, -1, 5, 17])
@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_a_label_out_of_range_spoils_its_pixel(ignored, wrong, kernel):
    logits, target, _ = scene((1, 5, 6, 6), ignored=ignored, label=torch.int16)
    target[0, 1, 1] = wrong
    logits.requires_grad_()
    losses = LossMap(*kernel(logits, target, None, 255, 0.0))
    assert losses.value.isnan().sum() == 1
    (gradient,) = torch.autograd.grad(losses.value.sum(), logits)
    assert gradient.isnan().any(1).nonzero().tolist() == [[0, 1, 1]]


def test_the_same_twice_is_the_same_to_the_bit():
    logits, target, _ = scene((2, 19, 17, 13))
    first, second = (check(logits, target, 0.2) for _ in range(2))
    assert torch.equal(first[0].value, second[0].value)
    assert torch.equal(first[1], second[1])


def test_cross_entropy_takes_the_fast_path_where_it_pays_and_gives_the_same_map(monkeypatch):
    logits, target, _ = scene((1, 8, 91, 171))
    weight = torch.rand(8)
    assert kernels.cross_entropy(logits, target, weight, 255, 0.1) is None  # a small one
    assert kernels.pays(torch.Size((8, 7, 96, 96)))
    plain = pixel.cross_entropy(logits, target, weight=weight, label_smoothing=0.1)
    monkeypatch.setattr(kernels, "_LARGE", 1 << 10)
    assert kernels.cross_entropy(logits, target, weight, 255, 0.1) is not None
    fast = pixel.cross_entropy(logits, target, weight=weight, label_smoothing=0.1)
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)


def test_autocast_around_it_changes_nothing(monkeypatch):
    monkeypatch.setattr(kernels, "_LARGE", 0)
    logits, target, _ = scene((1, 8, 82, 81))
    weight = torch.linspace(0.5, 2, 8)
    plain = pixel.cross_entropy(logits, target, weight=weight, label_smoothing=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = pixel.cross_entropy(logits, target, weight=weight, label_smoothing=0.1)
    assert torch.equal(plain.value, again.value)


@pytest.mark.parametrize("upsampled", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_second_derivative_and_many_gradients_at_once_are_those_of_the_plain_path(monkeypatch, smoothing, upsampled):
    low, target, _ = scene((2, 3, 4, 3), torch.float64)
    target[0, 0, 0] = 255
    low.requires_grad_()

    def derivatives():
        logits = Upsampled(low, (4, 3), (4, 3), True) if upsampled else low
        value = pixel.cross_entropy(logits, target, label_smoothing=smoothing).value
        (gradient,) = torch.autograd.grad(value.square().sum(), low, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), low, retain_graph=True)
        some = torch.eye(5, value.numel(), dtype=torch.float64).view(5, *value.shape)
        (rows,) = torch.autograd.grad(value, low, some, is_grads_batched=True)
        return gradient, second, rows

    plain = derivatives()
    assert plain[1].any()
    monkeypatch.setattr(kernels, "_LARGE", 0)
    for one, other in zip(derivatives(), plain, strict=True):
        torch.testing.assert_close(one, other)
