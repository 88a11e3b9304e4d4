"""Logits at low resolution: what is made of them by bands is what is made of the interpolated ones."""

import copy

import pytest
import torch
import torch.nn.functional as F

from segtrain.losses import kernels, pixel, upsampling
from segtrain.losses.criterion import Criterion, as_criterion
from segtrain.losses.kernels import blocks
from segtrain.losses.upsampling import Upsampled, by_pixel, full_resolution
from segtrain.registry import CRITERIA
from segtrain.task import Task, predict

# low, interpolated to, as much of it as belongs to the image
SIZES = [
    ((1, 1), (4, 4), (4, 4)),
    ((3, 4), (12, 16), (12, 16)),
    ((5, 7), (20, 28), (19, 26)),
    ((4, 5), (13, 9), (13, 9)),
    ((16, 9), (128, 72), (128, 72)),
    ((6, 6), (3, 4), (3, 4)),
    ((9, 1), (36, 4), (33, 1)),
]


@pytest.fixture(autouse=True)
def _several_bands_per_image(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 128)
    monkeypatch.setattr(upsampling, "_BAND", 128)
    monkeypatch.setattr(kernels, "pays", lambda shape: shape[1] > 1)


def scene(classes, sizes, *, dtype=torch.float32, align_corners=True, images=2, layout=torch.contiguous_format):
    generator = torch.Generator().manual_seed(0)
    low, grid, size = sizes
    logits = (2 * torch.randn(images, classes, *low, generator=generator)).to(dtype).to(memory_format=layout)
    target = torch.randint(0, classes, (images, *size), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return Upsampled(logits.requires_grad_(), grid, size, align_corners), target.byte()


def interpolated(logits):
    """In float64, by torch."""
    full = F.interpolate(logits.low.double(), logits.grid, mode="bilinear", align_corners=logits.align_corners)
    return full[..., : logits.size[0], : logits.size[1]]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("classes", [2, 19, 200])
def test_values_and_gradients_are_those_of_interpolation_and_criterion_in_float64(classes, sizes, align_corners):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 1e-2)):
        logits, target = scene(classes, sizes, dtype=dtype, align_corners=align_corners)
        share = torch.rand(target.shape).round().double()
        weight = torch.linspace(0, 3, classes, dtype=torch.float64)
        options = {"weight": weight, "label_smoothing": 0.1}
        maps = pixel.cross_entropy(logits, target, **options)
        expected = pixel.cross_entropy(interpolated(logits), target, **options)
        (slope,) = torch.autograd.grad((maps.value * share).sum(), logits.low)
        (wanted,) = torch.autograd.grad((expected.value * share).sum(), logits.low)
        assert slope.dtype == dtype
        exact = min(tolerance, 2e-5)  # bfloat16 is read exactly, and only its gradient rounded
        for one, other in zip(maps, expected, strict=True):
            torch.testing.assert_close(one.double(), other.double(), rtol=exact, atol=exact)
        torch.testing.assert_close(slope.double(), wanted.double(), rtol=tolerance, atol=tolerance * wanted.abs().max())


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bands_are_the_interpolated_logits(layout, sizes):
    for align_corners in (True, False):
        logits, _ = scene(5, sizes, align_corners=align_corners, layout=layout, dtype=torch.float64)
        whole = logits.full().detach()
        seen = torch.full_like(whole, torch.nan)
        for (images, rows), band in logits.bands():
            seen[images, :, rows] = band
        torch.testing.assert_close(seen, whole, rtol=1e-12, atol=1e-12)
        assert torch.equal(by_pixel(predict, logits), predict(whole))
        assert logits.shape == whole.shape


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_same_twice_and_in_any_layout(layout):
    logits, target = scene(19, SIZES[2], layout=layout)
    slopes = [torch.autograd.grad(pixel.cross_entropy(logits, target).value.sum(), logits.low)[0] for _ in range(2)]
    assert torch.equal(*slopes)
    plain, _ = scene(19, SIZES[2])
    (expected,) = torch.autograd.grad(pixel.cross_entropy(plain, target).value.sum(), plain.low)
    torch.testing.assert_close(slopes[0], expected)


def test_logits_that_are_not_finite_touch_their_neighbours_only():
    logits, target = scene(4, SIZES[2])
    low = logits.low.detach().clone()
    low[0, :, 4, 6] = torch.nan  # the lower right corner of an image
    target[0, 10:, 18:] = 255
    logits = logits._replace(low=low.requires_grad_())
    losses = pixel.cross_entropy(logits, target)
    (slope,) = torch.autograd.grad(losses.value.sum(), low)
    assert torch.isfinite(losses.value).all()
    assert torch.isfinite(slope).all()


def test_nothing_valid_gives_zero_gradients():
    logits, target = scene(4, SIZES[2])
    (slope,) = torch.autograd.grad(pixel.cross_entropy(logits, torch.full_like(target, 255)).value.sum(), logits.low)
    assert torch.equal(slope, torch.zeros_like(slope))


TASK = Task("segmentation", ("a", "b", "c", "d"), ((0, 0, 0),) * 4)
ALONE = [name for name in CRITERIA if name not in ("mined", "weighted_sum", "kl_div", "image_presence")]


def criterion(name):
    keys = {"top_p": 0.3} if name.startswith("bootstrapped") else {"ohem": {"min_kept": 50}}.get(name, {})
    return as_criterion(CRITERIA[name](TASK, **keys), TASK)


@pytest.mark.parametrize("scope", ["batch", "rank", "image"])
def test_mining_at_full_resolution_in_every_scope(scope):
    compare(as_criterion(CRITERIA["bootstrapped_ce"](TASK, top_p=0.2, scope=scope, class_weights=[0, 1, 2, 3.0]), TASK))


@pytest.mark.parametrize("name", ALONE)
def test_every_criterion_takes_logits_at_low_resolution(name):
    compare(criterion(name))


def test_a_sum_of_terms_of_which_some_need_full_resolution():
    terms = [criterion("bootstrapped_ce").parts[0].renamed(["ce"]), criterion("lovasz").parts[0].renamed(["region"])]
    compare(Criterion(TASK, terms))


def compare(whole):
    for sizes in (SIZES[2], SIZES[3]):
        logits, target = scene(TASK.channels(whole.link), sizes, dtype=torch.float64)
        results = []
        for given in (logits, logits.full()):
            loss = whole(given, target, 0)
            (slope,) = torch.autograd.grad(loss.value, logits.low)
            seen = whole.inspect(given, target, 0)
            sums = whole.plain(given, target, 0)
            results.append((loss.value, slope, sums, *loss.logs.values(), *([] if seen is None else seen[:4])))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_a_copy_without_gradient_and_the_whole():
    logits, _ = scene(4, SIZES[2])
    assert not logits.detach().low.requires_grad
    assert full_resolution(logits).requires_grad
    assert full_resolution(copy.deepcopy(logits.detach())).shape == logits.shape


def test_a_mined_step_holds_a_few_numbers_per_pixel_and_nothing_per_logit(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 1 << 12)
    logits, target = scene(19, ((64, 64), (256, 256), (256, 256)))
    task = Task("segmentation", tuple(map(str, range(19))), ((0, 0, 0),) * 19)
    criterion = CRITERIA["bootstrapped_ce"](task, top_p=0.15)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        criterion(logits, target, 0).value.backward()
    events = [one for one in profile.profiler.kineto_results.events() if one.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    assert most < 34 * target.numel() + 2 * logits.low.numel() * 4  # bytes; the logits alone have 76 per pixel
