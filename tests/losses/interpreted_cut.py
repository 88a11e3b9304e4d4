"""Sums and slopes of what is kept, under Triton's interpreter, against the CPU; test_gpu_kernels.py runs this file."""

import math

import pytest
import torch
from torch.autograd import forward_ad
from triton.runtime.interpreter import GridExecutor

from segtrain.losses.inspection import largest_image
from segtrain.losses.kernels import blocks, gpu
from segtrain.losses.maps import LossMap, kept_and_all, reduced
from segtrain.losses.mining import Hardest, Threshold
from segtrain.losses.terms import PixelTerms
from segtrain.selection import Cut, cut_kernels, largest
from segtrain.upsampling import Upsampled

# NumPy, which stands in for the GPU, warns of what is meant: pixels outside, and numbers that are not finite
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SHAPES = [(1, 1, 1), (3, 5, 7), (2, 45, 50), (9,)]
RULES = {
    **{f"{scope} {p}": Hardest(lambda step, p=p: p, scope) for scope in ("batch", "image") for p in (1e-4, 0.3, 1.0)},
    "most": Hardest(lambda step: 0.999),
    "threshold": Threshold(0.6, 3),
    "threshold by image": Threshold(0.6, 3, "image"),
}


def scene(shape, weighted=True):
    """A map with ties, ignored entries and weights, whose value is not its hardness; or one where it is."""
    generator = torch.Generator().manual_seed(len(shape))
    hardness = torch.rand(shape, generator=generator).mul(20).round().div(10)
    valid = torch.rand(shape, generator=generator) < 0.8
    weight = torch.rand(shape, generator=generator) + 0.5 if weighted else torch.ones(shape)
    return LossMap(
        torch.where(valid, hardness * weight + 0.1 * weighted, 0.0),
        torch.where(valid, weight, 0.0),
        torch.where(valid, hardness, 0.0),
        valid,
    )


@pytest.fixture
def on_gpu(monkeypatch):
    """Tensors of the CPU go to the kernels, where they would without this if they were on a GPU."""

    def switch(on):
        monkeypatch.setattr(largest, "GPUS", ("cpu",) if on else ())

    monkeypatch.setattr(cut_kernels, "_PROGRAMS", 2)  # a program sums several blocks
    return switch


def both(on_gpu, losses, rule):
    """Sums, statistics, shares, the largest image and the slope of the map: by the kernels, and on the CPU."""
    for on in (True, False):
        on_gpu(on)
        value = losses.value.detach().requires_grad_()
        mine = losses._replace(value=value)
        selection = rule(mine, 0, torch.zeros_like(losses.valid, dtype=torch.int64), 2)
        assert isinstance(selection.kept, Cut) == (on and selection.kept is not losses.valid)
        kept, everything = kept_and_all(mine, selection.kept)
        (slope,) = torch.autograd.grad(kept.total * 3 + everything.total / 7, value)
        alone = reduced(mine, selection.kept)
        sums = [one for pair in (kept, everything, alone) for one in (pair.total.detach(), pair.count)]
        share = selection.share.double()
        yield sums, selection.logs, share, selection.threshold, largest_image(selection.kept).double(), slope


def check(on_gpu, losses, rule):
    ours, theirs = both(on_gpu, losses, rule)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, equal_nan=True)
    return ours


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_sums_of_what_is_kept_are_those_of_the_cpu(on_gpu, shape, weighted, rule):
    if len(shape) == 1 and "image" in rule:
        pytest.skip("an image has one loss")
    check(on_gpu, scene(shape, weighted), RULES[rule])


@pytest.mark.parametrize("scope", ["batch", "image"])
def test_edges(on_gpu, scope):
    rule, losses = Hardest(lambda step: 0.2, scope), scene((3, 15, 30))
    valid = losses.valid.clone()
    valid[1] = False
    empty = LossMap(*(torch.where(valid, one, 0.0) for one in losses[:3]), valid)
    logs = check(on_gpu, empty, rule)[1]
    assert logs["thresholds"] == (1 if scope == "batch" else 2)
    nothing = LossMap(*(torch.zeros_like(one) for one in losses))
    assert check(on_gpu, nothing, rule)[1]["kept"] == 0
    tied = losses._replace(hardness=losses.valid.float())
    logs = check(on_gpu, tied, rule)[1]
    assert logs["kept"] == logs["kept"].round() > 0  # a whole number, not one to rounding
    for bad in (math.nan, math.inf, -math.inf):
        hardness = losses.hardness.masked_fill((torch.rand(losses.valid.shape) < 0.01) & losses.valid, bad)
        sums = check(on_gpu, losses._replace(value=hardness, hardness=hardness), rule)[0]
        assert bad < 0 or not sums[0].isfinite()
    none = LossMap(*(one[:0] for one in losses))
    for keeps in (rule, Threshold(0.6, 3, scope)):
        check(on_gpu, none, keeps)


def test_two_runs_give_the_same_bits(on_gpu):
    losses = scene((2, 45, 50))
    (first, _), (second, _) = (both(on_gpu, losses, RULES["image 0.3"]) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


def test_a_value_and_its_hardness_are_read_once_or_twice_with_the_same_sums(on_gpu):
    on_gpu(True)
    losses = scene((2, 20, 30), weighted=False)
    rule = Hardest(lambda step: 0.3)
    one, other = (rule(map, 0, None, 2) for map in (losses, losses._replace(hardness=losses.value)))
    one, other = kept_and_all(losses, one.kept), kept_and_all(losses, other.kept)
    assert one[0].total == other[0].total
    assert one[1].total == other[1].total


def test_images_are_counted_along_the_only_dimension_of_a_grid_that_takes_them_all(on_gpu, monkeypatch):
    # CUDA: 2^31 - 1 programs along the first, 65 535 along the others
    grids, start = [], GridExecutor.__init__

    def noted(self, function, names, grid, *others):
        grids.append(grid)
        start(self, function, names, grid, *others)

    monkeypatch.setattr(GridExecutor, "__init__", noted)
    check(on_gpu, scene((3, 45, 50)), RULES["image 0.3"])
    assert len(grids) >= 6 + 3 * 2 + 3
    assert all(len(grid) == 1 for grid in grids)


def test_more_images_than_programs(on_gpu):
    check(on_gpu, scene((7, 2, 3)), RULES["image 0.3"])


def test_what_a_mean_is_divided_by_has_no_gradient(on_gpu):
    on_gpu(True)
    losses = scene((2, 5, 6))
    kept, everything = kept_and_all(
        losses._replace(value=losses.value.requires_grad_()), RULES["batch 0.3"](losses, 0, None, 2).kept
    )
    assert kept.total.requires_grad
    assert not kept.count.requires_grad
    assert not everything.count.requires_grad


def test_terms_are_mined_together(on_gpu):
    losses = scene((2, 9, 11))
    second = losses._replace(value=losses.weight * 2, weight=losses.valid.float())
    results = []
    for on in (True, False):
        on_gpu(on)
        terms = PixelTerms([lambda *_: losses, lambda *_: second], ["a", "b"], Hardest(lambda step: 0.3), rank_by=0)
        part = terms(torch.zeros(2, 3, 9, 11), torch.zeros(2, 9, 11, dtype=torch.int64), 0)
        results.append(
            [[(one.kept.total, one.kept.count, one.all.total, one.all.count) for one in part.sums], part.logs]
        )
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_a_slope_can_be_differentiated_again(on_gpu):
    on_gpu(True)
    losses = scene((2, 5, 6))
    cut = Hardest(lambda step: 0.3)(losses, 0, None, 2).kept
    x = torch.rand(2, 5, 6, requires_grad=True)
    torch.autograd.gradgradcheck(
        lambda scale: kept_and_all(losses._replace(value=(x * scale).float()), cut)[0].total.double(),
        torch.tensor(1.5, dtype=torch.float64, requires_grad=True),
        eps=1e-2,
        atol=1e-3,
    )
    total = kept_and_all(losses._replace(value=x**2), cut)[0].total
    (slope,) = torch.autograd.grad(total, x, create_graph=True)
    (twice,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(twice, 2 * cut.share.float())


def test_weights_that_are_learned_and_float64_go_the_plain_way(on_gpu):
    on_gpu(True)
    losses = scene((2, 5, 6))
    cut = Hardest(lambda step: 0.3)(losses, 0, None, 2).kept
    weight = losses.weight.requires_grad_()
    kept, _ = kept_and_all(losses._replace(weight=weight), cut)
    (slope,) = torch.autograd.grad(kept.count, weight)
    torch.testing.assert_close(slope, cut.share.float())
    wide = LossMap(losses.value.double(), losses.weight.detach().double(), losses.hardness, losses.valid)
    assert kept_and_all(wide, cut)[0].total.dtype == torch.float64


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # torch's own forward mode
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_tangents_and_transforms_go_the_plain_way(on_gpu):
    on_gpu(True)
    losses = scene((2, 5, 6))
    cut = Hardest(lambda step: 0.3)(losses, 0, None, 2).kept

    def total(value):
        return kept_and_all(losses._replace(value=value), cut)[0].total

    share, direction = cut.share.float(), torch.rand(2, 5, 6)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(total(forward_ad.make_dual(losses.value, direction))).tangent
    torch.testing.assert_close(tangent, (share * direction).sum())
    torch.testing.assert_close(torch.func.grad(total)(losses.value), share)
    torch.testing.assert_close(torch.vmap(total)(torch.stack([losses.value, direction]))[1], (share * direction).sum())
    (many,) = torch.autograd.grad(
        total(direction.requires_grad_()), direction, torch.tensor([1.0, 2.0]), is_grads_batched=True
    )
    torch.testing.assert_close(many[1], 2 * share)


@pytest.mark.parametrize("upsampled", [False, True])
@pytest.mark.parametrize("scope", ["batch", "image"])
def test_a_mined_cross_entropy_from_logits_to_their_gradient(on_gpu, scope, upsampled):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 5, 4, 12, generator=generator)
    size = (15, 23) if upsampled else (4, 12)
    target = torch.randint(0, 5, (2, *size), generator=generator)
    target[0, :3, :9] = 255
    if not upsampled:
        logits[0, :, :2, :6] = torch.nan  # of ignored pixels
    results = []
    for on, kernel in ((True, gpu.cross_entropy), (False, blocks.cross_entropy)):
        on_gpu(on)
        inputs = logits.clone().requires_grad_()
        given = Upsampled(inputs, (16, 24), size, True) if upsampled else inputs
        losses = LossMap(*kernel(given, target, torch.tensor([0.0, 1, 2, 3, 4]), 255, 0.1))
        selection = Hardest(lambda step: 0.2, scope)(losses, 0, target, 5)
        kept, everything = kept_and_all(losses, selection.kept)
        (kept.total / kept.count).float().backward()
        results.append([kept.total.detach(), kept.count, everything.total.detach(), inputs.grad, selection.logs])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)
    assert results[0][3].isfinite().all()
    assert results[0][3].any()


def test_a_compiler_sees_one_graph(on_gpu):
    on_gpu(True)

    def loss(losses, top_p):
        selection = Hardest(lambda step: top_p, "image")(losses, 0, None, 2)
        kept, everything = kept_and_all(losses, selection.kept)
        return kept.total / kept.count, everything.total, selection.logs

    losses = scene((2, 5, 6))
    results = []
    for call in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        value = losses.value.detach().requires_grad_()
        mean, everything, logs = call(losses._replace(value=value), 0.3)
        results.append([mean.detach(), everything.detach(), logs, *torch.autograd.grad(mean, value)])
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_the_operators_are_registered_as_torch_wants_them():
    scores, available = torch.randn(2, 9), torch.rand(2, 9) < 0.9
    x, slope = torch.randn(2, 9, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for groups in (1, 2):
        cut = (scores, available, torch.randn(groups), torch.rand(groups).double())
        torch.library.opcheck(cut_kernels.sums, (x, torch.rand(2, 9), *cut), test_utils=tests)
        torch.library.opcheck(cut_kernels._slope, (slope, None, *cut), test_utils=tests)
        for op in (cut_kernels.share, cut_kernels.taken_of_images):
            torch.library.opcheck(op, cut, test_utils=tests)
