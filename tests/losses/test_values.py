"""Values and gradients: against torch where torch has the loss, against float64 NumPy where it has not."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import segtrain.losses as L
from segtrain.losses import channels, pixel
from tests import reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-5, torch.bfloat16: 2e-5}
SHAPES = [(5, 4), (2, 3, 6, 5), (2, 3, 2, 3, 4)]


def draw(shape, classes=None, *, seed=0, dtype=torch.float64, ignored=0.3, ignore_index=255):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).mul(3).to(dtype)
    target = torch.randint(0, shape[1], shape[:1] + shape[2:], generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = ignore_index
    return logits.requires_grad_(), target


def same(ours, theirs, *inputs):
    torch.testing.assert_close(ours, theirs)
    weights = torch.linspace(0.5, 1.5, ours.numel(), dtype=ours.dtype).view(ours.shape)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), inputs, retain_graph=True),
        torch.autograd.grad((theirs * weights).sum(), inputs, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def memory_format(x, name):
    if name == "channels_last":
        return x.transpose(1, -1).contiguous().transpose(1, -1)
    if name == "strided":
        return torch.stack([x, x], -1)[..., 0]
    return x


@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 12), st.integers(1, 6)),
        st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
        st.tuples(st.integers(1, 2), st.integers(2, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    ),
    p=st.one_of(st.just(1.0), st.just(1e-6), st.floats(0.01, 1)),
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from(["contiguous", "channels_last", "strided"]),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1]),
    scope=st.sampled_from(["batch", "rank", "image"]),
    labels=st.sampled_from([torch.uint8, torch.int64]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=300, deadline=None)
def test_mined_cross_entropy_is_that_of_the_reference(
    shape, p, dtype, layout, ignored, scale, weighted, smoothing, scope, labels, seed
):
    logits, target = draw(shape, seed=seed, dtype=dtype, ignored=ignored)
    with torch.no_grad():
        logits = memory_format((logits * scale).clamp(-3e4, 3e4), layout).requires_grad_()
    weight = torch.linspace(0, 2, shape[1] + 1)[1:].to(dtype).float() if weighted else None
    scope = "batch" if len(shape) == 2 else scope
    module = L.Mined(L.CrossEntropyLoss(weight, 255, label_smoothing=smoothing), p, -1, 255, scope=scope)
    loss = module(logits, target.to(labels))
    loss.backward()
    hardness = pixel.cross_entropy(logits.detach(), target).hardness  # ranked by the same bits, see the traps for k
    value, gradient = reference.mined_cross_entropy(
        logits.detach().double().numpy(),
        target.numpy(),
        p,
        weight=None if weight is None else weight.numpy(),
        smoothing=smoothing,
        scope=scope,
        hardness=hardness.double().numpy().ravel(),
    )
    tolerance = TOLERANCE[dtype]
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(value, rel=tolerance, abs=tolerance)
    own = {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(dtype, tolerance)  # the gradient has the logits' dtype
    np.testing.assert_allclose(logits.grad.double().numpy(), gradient, rtol=own, atol=own)


@given(
    n=st.integers(1, 30),
    channels_=st.integers(1, 4),
    dtype=st.sampled_from(list(TOLERANCE)),
    p=st.floats(0.01, 1),
    scale=st.sampled_from([1.0, 1e4]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=100, deadline=None)
def test_mined_binary_cross_entropy_is_that_of_the_reference(n, channels_, dtype, p, scale, seed):
    logits, target = draw((n, channels_), seed=seed, dtype=dtype)
    logits = (logits.detach() * scale).clamp(-3e4, 3e4).requires_grad_()
    if channels_ == 1:
        target = torch.where(target == 255, 255, torch.arange(n) % 2)
    loss = L.bootstrapped_binary_cross_entropy_with_logits(logits, target, 0, p, ignore_index=255)
    loss.backward()
    x, labels = logits.detach().double().numpy(), target.numpy()
    valid = labels != 255
    wanted = labels[:, None] == (np.array([1]) if channels_ == 1 else np.arange(channels_))
    value, slope = reference.binary_cross_entropy(x, wanted.astype(float))
    hardness = channels.bce_with_logits(logits.detach(), target).hardness.double().numpy()
    share = reference.shares(hardness, valid, p)
    count = share.sum() * channels_ or 1.0
    tolerance = TOLERANCE[dtype]
    assert loss.item() == pytest.approx((share * value.sum(1)).sum() / count, rel=tolerance, abs=tolerance)
    own = {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(dtype, tolerance)
    np.testing.assert_allclose(logits.grad.double().numpy(), slope * share[:, None] / count, rtol=own, atol=own)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_cross_entropy_is_torchs(shape, reduction, smoothing, weighted):
    logits, target = draw(shape)
    options = {
        "weight": torch.arange(1.0, shape[1] + 1, dtype=torch.float64) if weighted else None,
        "ignore_index": 255,
        "reduction": reduction,
        "label_smoothing": smoothing,
    }
    theirs = F.cross_entropy(logits, target, **options)
    same(L.cross_entropy(logits, target, **options), theirs, logits)
    mined = L.bootstrapped_cross_entropy(
        logits, target, 0, 1.0, -1, options["weight"], 255, reduction, label_smoothing=smoothing
    )
    same(mined, theirs, logits)
    soft = torch.softmax(draw(shape, seed=1)[0].detach(), 1)
    options["ignore_index"] = -100
    same(L.cross_entropy(logits, soft, **options), F.cross_entropy(logits, soft, **options), logits)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_is_torchs(shape, reduction):
    logits, target = draw(shape)
    weight = torch.arange(1.0, shape[1] + 1, dtype=torch.float64)
    ours = L.nll_loss(logits, target, weight, 255, reduction)
    same(ours, F.nll_loss(logits, target, weight, ignore_index=255, reduction=reduction), logits)


@pytest.mark.parametrize("shape", [(7,), *SHAPES], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_between_channels_are_torchs(shape, reduction):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    t = torch.rand(shape, dtype=torch.float64)
    p = x.detach().sigmoid().requires_grad_()
    weight = torch.rand(shape[1] if len(shape) > 1 else shape[0], dtype=torch.float64) + 0.5
    per_channel = weight.view(-1, *[1] * (len(shape) - 2))
    same(
        L.binary_cross_entropy_with_logits(x, t, weight, reduction=reduction, pos_weight=2 * weight),
        F.binary_cross_entropy_with_logits(x, t, per_channel, reduction=reduction, pos_weight=2 * per_channel),
        x,
    )
    same(
        L.binary_cross_entropy(p, t, weight, reduction=reduction),
        F.binary_cross_entropy(p, t, per_channel, reduction=reduction),
        p,
    )
    same(L.l1_loss(x, t, reduction=reduction), F.l1_loss(x, t, reduction=reduction), x)
    same(L.mse_loss(x, t, reduction=reduction), F.mse_loss(x, t, reduction=reduction), x)


@pytest.mark.parametrize("shape", [(7,), *SHAPES], ids=str)
@pytest.mark.parametrize("reduction", ["sum", "none", "batchmean"])
@pytest.mark.parametrize("log_target", [False, True])
def test_kl_div_is_torchs(shape, reduction, log_target):
    torch.manual_seed(0)
    dim = min(1, len(shape) - 1)
    x = torch.randn(shape, dtype=torch.float64).log_softmax(dim).requires_grad_()
    t = torch.randn(shape, dtype=torch.float64).softmax(dim)
    t = t.log() if log_target else t
    ours = L.kl_div(x, t, reduction=reduction, log_target=log_target)
    same(ours, F.kl_div(x, t, reduction=reduction, log_target=log_target), x)
    same(L.KLDivLoss(reduction=reduction, log_target=log_target)(x, t), ours, x)


def test_binary_cross_entropy_of_labels_is_that_of_one_class_against_the_rest():
    logits, target = draw((2, 3, 4, 4))
    onehot = F.one_hot(torch.where(target == 255, 0, target), 3).movedim(-1, 1).double()
    each = F.binary_cross_entropy_with_logits(logits, onehot, reduction="none")
    expected = each.movedim(1, -1)[target != 255].mean()
    same(L.binary_cross_entropy_with_logits(logits, target, ignore_index=255), expected, logits)
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    pixel_weight = weight[target[target != 255]]
    weighted = (each.movedim(1, -1)[target != 255].mean(-1) * pixel_weight).sum() / pixel_weight.sum()
    same(L.binary_cross_entropy_with_logits(logits, target, weight, 255), weighted, logits)


def test_single_channels_can_be_ignored():
    logits, _ = draw((4, 3))
    target = torch.tensor([[1, 0, 255], [255, 255, 255], [0, 0, 0], [1, 1, 255]], dtype=torch.uint8)
    keep = target != 255
    expected = F.binary_cross_entropy_with_logits(logits[keep], target[keep].double())
    same(L.binary_cross_entropy_with_logits(logits, target, ignore_index=255), expected, logits)
    same(L.bootstrapped_binary_cross_entropy_with_logits(logits, target, 0, 1.0, ignore_index=255), expected, logits)


def test_labels_of_a_byte_are_not_taken_for_a_negative_ignore_index():
    logits = torch.zeros(1, 200)
    for target in (torch.tensor([156], dtype=torch.uint8), torch.tensor([156])):  # 156 - 256 = -100
        assert L.cross_entropy(logits, target).item() == pytest.approx(math.log(200))
        assert L.binary_cross_entropy_with_logits(logits, target).item() == pytest.approx(math.log(2))


def test_binary_label_smoothing_draws_the_target_to_one_half():
    logits, _ = draw((6, 1))
    target = torch.arange(6) % 2
    smoothed = target.double()[:, None] * 0.8 + 0.1
    expected = F.binary_cross_entropy_with_logits(logits, smoothed)
    same(L.binary_cross_entropy_with_logits(logits, target, label_smoothing=0.2), expected, logits)


def test_focal_loss_is_its_formula():
    logits, target = draw((2, 3, 4, 4), ignored=0.0)
    surprise = F.cross_entropy(logits, target, reduction="none")
    for gamma in (0.0, 0.5, 2.0):
        expected = ((1 - (-surprise).exp()) ** gamma * surprise).mean()
        same(L.focal_loss(logits, target, gamma=gamma), expected, logits)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    per_pixel = weight[target]
    expected = ((1 - (-surprise).exp()) ** 2 * surprise * per_pixel).sum() / per_pixel.sum()
    same(L.focal_loss(logits, target, weight), expected, logits)


def test_focal_loss_of_a_certain_pixel_has_a_gradient():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    for gamma in (0.0, 0.5, 1.0, 2.0):
        (gradient,) = torch.autograd.grad(L.focal_loss(logits, torch.tensor([0]), gamma=gamma), logits)
        assert gradient.abs().sum() == 0


def test_hardness_is_the_plain_loss_whatever_is_averaged():
    logits, target = draw((2, 3, 4, 4))
    plain = F.cross_entropy(logits, target, ignore_index=255, reduction="none").detach()
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    for losses in (
        pixel.cross_entropy(logits, target, weight=weight, label_smoothing=0.3),
        pixel.focal(logits, target, weight=weight),
    ):
        torch.testing.assert_close(losses.hardness, plain)
        assert not losses.hardness.requires_grad
    one_hot = F.one_hot(torch.where(target == 255, 0, target), 3).movedim(-1, 1)
    soft = pixel.cross_entropy(logits, one_hot * 0.9 + 0.1 / 3)
    torch.testing.assert_close(soft.hardness, F.cross_entropy(logits, one_hot.argmax(1), reduction="none").detach())
    binary = channels.bce_with_logits(logits, target, weight=weight, pos_weight=weight, label_smoothing=0.3)
    each = F.binary_cross_entropy_with_logits(logits, one_hot.double(), reduction="none").mean(1).detach()
    torch.testing.assert_close(binary.hardness, torch.where(target == 255, 0.0, each))


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_under_autocast_the_loss_is_that_of_full_precision(autocast, dtype):
    logits, target = draw((2, 3, 8, 8), dtype=dtype)
    modules = [
        L.BootstrappedCrossEntropy(0.3, ignore_index=255, label_smoothing=0.1),
        L.BootstrappedBCEWithLogits(0.3, ignore_index=255),
        L.FocalLoss(ignore_index=255),
        L.DiceLoss(ignore_index=255),
        L.LovaszLoss(ignore_index=255),
        L.Mined(lambda x, t: channels.bce(x, t, activation=torch.sigmoid), 0.3),
        L.Mined(lambda x, t: channels.mse(x, t, activation=torch.sigmoid), 0.3),
    ]
    for module in modules:
        plain = module(logits.to(torch.float64 if dtype == torch.float64 else torch.float32), target)
        with torch.autocast("cpu", autocast):
            loss = module(logits, target)
        assert loss.dtype == plain.dtype
        assert loss.item() == plain.item()
        loss.backward()
        assert logits.grad.isfinite().all()
        assert logits.grad.dtype == dtype


@pytest.mark.parametrize("name", ["cross_entropy", "smoothed", "bce", "focal", "mse"])
def test_gradients_are_those_of_finite_differences(name):
    logits, target = draw((2, 3, 3, 3))
    losses = {
        "cross_entropy": L.BootstrappedCrossEntropy(0.4, ignore_index=255),
        "smoothed": L.BootstrappedCrossEntropy(0.4, -1, [1.0, 2.0, 0.5], 255, label_smoothing=0.1),
        "bce": L.BootstrappedBCEWithLogits(0.4, ignore_index=255),
        "focal": L.Mined(L.FocalLoss(ignore_index=255), 0.4),
        "mse": L.Mined(lambda x, t: channels.mse(x, t, activation=torch.sigmoid), 0.4),
    }
    assert torch.autograd.gradcheck(lambda x: losses[name](x, target), (logits,))


def test_only_mined_pixels_have_a_gradient():
    logits, target = draw((2, 3, 8, 8))
    module = L.BootstrappedCrossEntropy(0.25, ignore_index=255)
    module(logits, target).backward()
    moved = logits.grad.abs().sum(1) > 0
    assert moved.sum() == module.last.kept == math.floor(0.25 * (target != 255).sum())
    assert not moved[target == 255].any()
    assert logits.grad[~moved[:, None].expand_as(logits)].abs().sum() == 0


def test_the_order_of_pixels_changes_nothing():
    logits, target = draw((1, 3, 10, 10))
    logits = logits.detach().round().requires_grad_()  # with ties
    order = torch.randperm(100)
    shuffled = logits.detach().flatten(2)[..., order].view_as(logits).requires_grad_()
    losses = [
        L.bootstrapped_cross_entropy(x, t, 0, 0.3, ignore_index=255)
        for x, t in ((logits, target), (shuffled, target.flatten(1)[:, order].view_as(target)))
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-14, atol=0)
    gradients = [torch.autograd.grad(loss, x)[0] for loss, x in zip(losses, (logits, shuffled), strict=True)]
    torch.testing.assert_close(gradients[0].flatten(2)[..., order], gradients[1].flatten(2), rtol=1e-14, atol=0)


def test_a_function_as_reduction_gets_the_k_values_kept():
    logits, target = draw((1, 3, 6, 6), ignored=0.2)
    logits = logits.detach().round()
    seen = []
    value = L.bootstrapped_cross_entropy(
        logits, target, 0, 0.3, ignore_index=255, reduction=lambda values: seen.append(values) or values.mean()
    )
    assert seen[0].shape == (math.floor(0.3 * (target != 255).sum()),)
    torch.testing.assert_close(value, L.bootstrapped_cross_entropy(logits, target, 0, 0.3, ignore_index=255))
    L.cross_entropy(logits, target, ignore_index=255, reduction=lambda values: seen.append(values) or values.sum())
    assert seen[1].shape == ((target != 255).sum(),)


def test_none_leaves_zeros_where_a_pixel_is_not_kept():
    logits, target = draw((2, 3, 6, 6))
    each = L.bootstrapped_cross_entropy(logits, target, 0, 0.25, ignore_index=255, reduction="none")
    plain = F.cross_entropy(logits, target, ignore_index=255, reduction="none")
    assert each.shape == target.shape
    assert ((each == 0) | (each == plain)).all()
    assert (each > 0).sum() == math.floor(0.25 * (target != 255).sum())


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0, 4)], ids=str)
def test_an_empty_batch_gives_a_connected_zero(shape):
    logits = torch.zeros(shape, requires_grad=True)
    target = torch.zeros(shape[:1] + shape[2:], dtype=torch.uint8)
    for module in (L.BootstrappedCrossEntropy(0.2), L.BootstrappedBCEWithLogits(0.2), L.DiceLoss(), L.LovaszLoss()):
        loss = module(logits, target)
        assert loss.item() == 0
        loss.backward()
        assert logits.grad.shape == shape
