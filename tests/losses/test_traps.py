"""The inputs on which other implementations of hard-pixel mining and label smoothing go wrong."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import segtrain.losses as L
from segtrain.losses import criterion as criteria
from segtrain.losses.mining import mined_share
from segtrain.schedule import linear
from segtrain.task import Task

TASK = Task("segmentation", ("a", "b", "c"), ((0, 0, 0),) * 3)


def scene(height: int = 16, width: int = 16, *, seed: int = 0, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 3, height, width, generator=generator)
    return logits.requires_grad_(), torch.randint(0, 3, (batch, height, width), generator=generator)


def top(logits: torch.Tensor, target: torch.Tensor, p: float, ignore: int = 255) -> float:
    """The mean of the hardest share of the valid pixels, by sorting in float64."""
    losses = F.cross_entropy(logits.double(), target, reduction="none", ignore_index=ignore)[target != ignore]
    k = min(len(losses), max(1, math.floor(p * len(losses) + 1e-6)))
    return losses.sort(descending=True).values[:k].mean().item()


def mined(logits: torch.Tensor, target: torch.Tensor, p: float, **options: object) -> torch.Tensor:
    return L.bootstrapped_cross_entropy(logits, target, 0, p, ignore_index=255, **options)


def test_a_batch_of_ignored_pixels_gives_a_connected_zero() -> None:
    logits, target = scene(8, 8)
    with torch.no_grad():
        logits[0, 0, 0, 0] = math.nan
    loss = mined(logits, torch.full_like(target, 255), 0.2)
    assert loss.shape == ()
    assert loss.item() == 0
    loss.backward()
    assert logits.grad.abs().sum() == 0


def test_saturated_and_right_pixels_give_zero() -> None:
    _, target = scene(8, 8)
    logits = (100.0 * F.one_hot(target, 3).movedim(-1, 1)).requires_grad_()
    loss = mined(logits, target, 0.2)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad.isfinite().all()


def test_a_single_valid_pixel_is_not_diluted() -> None:
    target = torch.full((1, 8, 8), 255)
    target[0, 3, 3] = 0
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 0] = math.log(0.95 / 0.025)
    assert mined(logits, target, 0.15).item() == pytest.approx(-math.log(0.95), abs=1e-6)


def test_a_k_that_rounds_to_nothing_is_one() -> None:
    logits, target = scene(2, 2)
    hardest = F.cross_entropy(logits, target, reduction="none").max()
    assert mined(logits, target, 0.2).item() == hardest.item()


def test_a_small_confident_batch_is_finite() -> None:
    target = torch.zeros(1, 3, 3, dtype=torch.long)
    logits = torch.zeros(1, 3, 3, 3)
    logits[:, 0] = math.log(0.99 / 0.005)
    assert mined(logits, target, 0.1).item() == pytest.approx(-math.log(0.99), abs=1e-6)


def test_classification_with_all_right_is_finite() -> None:
    target = torch.arange(8) % 3
    logits = 100.0 * F.one_hot(target, 3)
    assert L.bootstrapped_cross_entropy(logits, target, 0, 0.1).item() == 0
    assert L.bootstrapped_cross_entropy(torch.zeros(8, 3), target, 0, 0.1).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("left", [8, 1], ids=["half ignored", "most ignored"])
@pytest.mark.parametrize("p", [0.2, 0.5, 1.0])
def test_the_share_is_taken_of_the_valid_pixels(left: int, p: float) -> None:
    logits, target = scene()
    target[..., left:] = 255
    assert mined(logits, target, p).item() == pytest.approx(top(logits, target, p), rel=1e-6)


def test_twelve_valid_pixels_keep_two() -> None:
    logits, target = scene()
    target.view(-1)[12:] = 255
    module = L.BootstrappedCrossEntropy(0.2, ignore_index=255)
    assert module(logits, target).item() == pytest.approx(top(logits, target, 2 / 12), rel=1e-6)
    assert module.last.kept.item() == 2


def test_all_pixels_are_torchs_mean() -> None:
    logits, target = scene()
    target[..., :8] = 255
    ours, theirs = mined(logits, target, 1.0), F.cross_entropy(logits, target, ignore_index=255)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits))


def test_the_loss_does_not_jump_when_the_warm_up_begins() -> None:
    logits, target = scene()
    target[..., :8] = 255
    all_but_none = mined(logits, target, 0.999999)
    torch.testing.assert_close(mined(logits, target, 1.0), all_but_none, rtol=2e-2, atol=0)
    rise = linear(start=10, end=20)
    fractions = [mined_share(0.2, rise, step) for step in range(30)]
    assert fractions == sorted(fractions, reverse=True)
    assert fractions[10] == 1.0
    assert fractions[20] == 0.2


@pytest.mark.parametrize("at", [0, 5])
def test_a_warm_up_of_no_length_is_a_step(at: int) -> None:
    rise = linear(start=at, end=at)
    assert [mined_share(0.2, rise, step) for step in (at - 1, at)] == [1.0, 0.2]


def test_a_warm_up_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="start 7 and end 5"):
        linear(start=7, end=5)


@pytest.mark.parametrize("p", [0, -0.1, 1.5, 20, math.nan, True])
def test_a_share_outside_0_to_1_is_refused_at_construction(p: float) -> None:
    for build in (
        lambda: L.BootstrappedCrossEntropy(p),
        lambda: L.BootstrappedBCEWithLogits(p),
        lambda: L.Mined(L.CrossEntropyLoss(), p),
        lambda: criteria.bootstrapped_ce(TASK, top_p=p),
    ):
        with pytest.raises(ValueError, match=r"p (0|-0.1|1.5|20|nan|True); expected a share .* 0.25"):
            build()


@pytest.mark.parametrize(("p", "n", "k"), [(0.29, 100, 29), (0.57, 100, 57), (1 - 0.9, 100, 10), (0.9999999, 10, 10)])
def test_k_is_not_lost_to_rounding(p: float, n: int, k: int) -> None:
    module = L.BootstrappedCrossEntropy(p)
    module(torch.randn(n, 3), torch.zeros(n, dtype=torch.long))
    assert module.last.kept.item() == k


@pytest.mark.slow
def test_k_is_counted_in_double_precision() -> None:
    n = 16 * 1024 * 2048
    module = L.BootstrappedCrossEntropy(0.2)
    module(torch.zeros(n, 1), torch.zeros(n, dtype=torch.uint8))
    assert module.last.kept.item() == 6710886


def test_class_weights_give_a_weighted_mean_of_what_is_mined() -> None:
    logits, target = scene()
    weight = torch.tensor([0.2, 1.0, 10.0])
    torch.testing.assert_close(mined(logits, target, 1.0, weight=weight), F.cross_entropy(logits, target, weight))
    each = F.cross_entropy(logits, target, reduction="none").flatten()
    chosen = each.topk(51).indices
    weights = weight[target.flatten()[chosen]]
    expected = (each[chosen] * weights).sum() / weights.sum()
    torch.testing.assert_close(mined(logits, target, 0.2, weight=weight), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_class_weights_work_beside_ignored_pixels(dtype: torch.dtype) -> None:
    logits, target = scene()
    target[..., :5] = 255
    weight = torch.tensor([0.2, 1.0, 10.0])
    expected = F.cross_entropy(logits, target, weight, ignore_index=255)
    torch.testing.assert_close(mined(logits, target.to(dtype), 1.0, weight=weight), expected)


@pytest.mark.parametrize("kept", [41, 410, 2048])
def test_the_loss_is_the_mean_of_the_mined_pixels_whatever_their_number(kept: int) -> None:
    logits, target = scene(64, 64)
    assert mined(logits, target, kept / 4096).item() == pytest.approx(top(logits, target, kept / 4096), rel=1e-6)


@pytest.mark.parametrize("min_kept", [1, 2, 10])
def test_ohem_keeps_what_it_is_told_to(min_kept: int) -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.uint8)
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 0] = math.log(0.9 / 0.05)
    criterion = criteria.ohem(TASK, threshold=0.7, min_kept=min_kept)
    loss = criterion(logits, target, 0)
    assert loss.logs["mining/kept"].item() == min_kept
    assert loss.value.item() == pytest.approx(-math.log(0.9), abs=1e-6)
    logits[:, 0, :4] = 0  # half of the pixels below the threshold
    assert criterion(logits, target, 0).logs["mining/kept"].item() == 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_k_is_exact_among_the_ties_of_half_precision(dtype: torch.dtype) -> None:
    logits, target = scene(64, 64)
    with torch.no_grad():
        logits += 12 * F.one_hot(target, 3).movedim(-1, 1)
    module = L.BootstrappedCrossEntropy(1000 / 4096)
    loss = module(logits.to(dtype), target)
    assert module.last.kept.item() == pytest.approx(1000, abs=1e-9)
    assert loss.item() == module(logits.to(dtype).float(), target).item()
    assert loss.item() == pytest.approx(top(logits.to(dtype), target, 1000 / 4096), abs=1e-7)


def test_a_sum_of_a_million_half_precision_losses_is_finite() -> None:
    logits = torch.full((1, 3, 1024, 1024), 0.0, dtype=torch.float16)
    logits[:, 0] = -8.0
    loss = L.bootstrapped_cross_entropy(logits, torch.zeros(1, 1024, 1024, dtype=torch.uint8), 0, 1.0, reduction="sum")
    assert loss.item() == pytest.approx(2**20 * -F.log_softmax(logits[0, :, 0, 0].float(), 0)[0].item(), rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{}, {"skip_hardest": 0.1}, {"min_per_class": 3}, {"scope": "image"}], ids=str)
def test_a_bad_logit_of_a_valid_pixel_reaches_the_loss(bad: float, options: dict[str, object]) -> None:
    logits, target = scene(8, 8)
    with torch.no_grad():
        logits[0, 1, 4, 4] = bad
    assert not criteria.bootstrapped_ce(TASK, top_p=0.2, **options)(logits, target, 0).value.isfinite()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "name", ["cross_entropy", "mined", "label_smoothed_ce", "bce_with_logits", "mse", "dice", "lovasz"]
)
def test_a_bad_logit_of_an_ignored_pixel_does_not(bad: float, name: str) -> None:
    options = {"loss": criteria.components.focal(TASK), "top_p": 0.3} if name == "mined" else {}
    criterion = criteria.as_criterion(criteria.CRITERIA[name](TASK, **options), TASK)
    logits, target = scene(4, 4)
    target[0, 2, 2] = 255
    clean = criterion(logits, target, 0).value
    with torch.no_grad():
        logits[0, :, 2, 2] = bad
    loss = criterion(logits, target, 0).value
    assert loss.item() == clean.item()
    loss.backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, :, 2, 2].abs().sum() == 0


def test_confident_and_right_pixels_are_not_mined_for_their_smoothing() -> None:
    logits = torch.zeros(1, 19, 1, 2)
    logits[0, 0, 0, 0] = 40.0  # right, by a wide margin: its smoothed loss is the larger one
    logits[0, 1, 0, 1] = 1.0  # wrong
    target = torch.zeros(1, 1, 2, dtype=torch.long)
    smoothed = F.cross_entropy(logits, target, label_smoothing=0.1, reduction="none")[0, 0]
    assert smoothed[0] > smoothed[1]
    torch.testing.assert_close(mined(logits, target, 0.5, label_smoothing=0.1), smoothed[1])


def test_cross_entropy_works_with_its_defaults_and_keeps_the_targets_shape() -> None:
    logits, target = scene()
    assert L.CrossEntropyLoss(reduction="none")(logits, target).shape == target.shape
    target[..., 8:] = -100
    assert L.CrossEntropyLoss(reduction="none")(logits, target).shape == target.shape
    torch.testing.assert_close(L.CrossEntropyLoss()(logits, target), F.cross_entropy(logits, target))


@pytest.mark.parametrize("with_channel", [True, False])
def test_binary_targets_may_lack_the_channel_and_hold_ignored_pixels(with_channel: bool) -> None:
    logits = torch.zeros(1, 1, 2, 2)
    target = torch.tensor([[[0, 1], [255, 255]]], dtype=torch.uint8)
    target = target.unsqueeze(1) if with_channel else target
    for function in (
        L.BCEWithLogitsLoss(ignore_index=255),
        L.BootstrappedBCEWithLogits(1.0, ignore_index=255),
        L.BootstrappedBCEWithLogits(0.5, ignore_index=255),
    ):
        assert function(logits, target).item() == pytest.approx(math.log(2))
        assert function(logits, target.float().view_as(logits)).item() == pytest.approx(math.log(2))


def test_ignored_pixels_of_a_binary_task_count_nothing() -> None:
    logits = torch.full((1, 1, 2, 2), 3.0)
    target = torch.tensor([[[1, 1], [255, 255]]], dtype=torch.uint8)
    expected = F.binary_cross_entropy_with_logits(torch.tensor(3.0), torch.tensor(1.0))
    task = Task("segmentation", ("no", "yes"), ((0, 0, 0),) * 2)
    for top_p in (0.5, 1.0):
        loss = criteria.bootstrapped_bce_with_logits(task, top_p=top_p)(logits, target, 0)
        torch.testing.assert_close(loss.value, expected)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4, 4), (2, 3, 2, 4, 4)])
@pytest.mark.parametrize("ignore_index", [255, -100])
def test_label_smoothing_works_in_every_shape_beside_ignored_entries(shape: tuple[int, ...], ignore_index: int) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(shape), torch.randint(0, 3, shape[:1] + shape[2:])
    target.view(-1)[::3] = ignore_index
    expected = F.cross_entropy(logits, target, label_smoothing=0.1, ignore_index=ignore_index)
    torch.testing.assert_close(L.LabelSmoothingCrossEntropy(0.1, ignore_index=ignore_index)(logits, target), expected)


def test_every_module_takes_its_reduction_and_refuses_unknown_ones() -> None:
    modules = (
        L.CrossEntropyLoss,
        L.NLLLoss,
        L.BCEWithLogitsLoss,
        L.BCELoss,
        L.KLDivLoss,
        L.L1Loss,
        L.MSELoss,
        L.FocalLoss,
    )
    for module in modules:
        assert module(reduction="sum").reduction == "sum"
        with pytest.raises(ValueError, match="reduction 'average'; expected mean, sum, none"):
            module(reduction="average")


def test_nothing_but_the_arguments_is_touched(capsys: pytest.CaptureFixture[str]) -> None:
    logits, target = scene()
    before = logits.detach().clone(), target.clone(), torch.get_rng_state()
    mined(logits, target, 0.2).backward()
    assert torch.equal(before[0], logits.detach())
    assert torch.equal(before[1], target)
    assert torch.equal(before[2], torch.get_rng_state())
    assert capsys.readouterr() == ("", "")


def test_scope_is_a_choice_and_what_it_does_is_logged() -> None:
    logits, target = scene(8, 8, batch=2)
    with torch.no_grad():
        logits[1] = 5.0 * F.one_hot(target[1], 3).movedim(-1, 0)  # the second image is easy
    batch, image = (criteria.bootstrapped_ce(TASK, top_p=0.25, scope=scope) for scope in ("batch", "image"))
    by_batch, by_image = batch(logits, target, 0), image(logits, target, 0)
    assert batch.inspect(logits, target, 0).scalars["mining/max_image_share"] == 1.0
    assert image.inspect(logits, target, 0).scalars["mining/max_image_share"] == 0.5
    each = [top(logits[i : i + 1], target[i : i + 1], 0.25) for i in (0, 1)]
    assert by_image.value.item() == pytest.approx(sum(each) / 2, rel=1e-6)
    assert by_batch.value.item() == pytest.approx(top(logits, target, 0.25), rel=1e-6)


def test_evaluation_does_not_advance_the_count() -> None:
    module = L.BootstrappedCrossEntropy(0.25, warmup=2)
    logits, target = scene()
    module.eval()
    for _ in range(5):
        module(logits, target)
    assert module.iteration == 0
    module.train()
    plain, first, second, third = F.cross_entropy(logits, target), *(module(logits, target) for _ in range(3))
    torch.testing.assert_close(first, plain)
    torch.testing.assert_close(second, plain)
    assert third > plain
    module(logits, target, iteration=0)
    assert module.iteration == 3
    copied = copy.deepcopy(module)
    assert copied.iteration == 3


@given(st.floats(0.001, 1), st.integers(1, 60), st.integers(0, 2**16))
@settings(max_examples=100, deadline=None)
def test_the_kept_weight_is_exactly_k_with_any_ties(p: float, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-2, 3, (n, 3), generator=generator).float()
    module = L.BootstrappedCrossEntropy(p)
    module(logits, torch.zeros(n, dtype=torch.long))
    assert module.last.kept.item() == pytest.approx(min(n, max(1, math.floor(p * n + 1e-6))), abs=1e-9)
