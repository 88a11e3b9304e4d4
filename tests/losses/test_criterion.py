"""Criteria as the trainer uses them: every registered one, sums of terms, logs, micro-batches, inspection."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from segtrain.losses import as_criterion, check_target, components
from segtrain.losses.criterion import WeightedTerm, bootstrapped_ce, mined, ohem, weighted_sum
from segtrain.losses.inspection import natural_share, near_label_change
from segtrain.registry import CRITERIA, REGION_LOSSES, parameters
from segtrain.schedule import between, linear
from segtrain.task import Task

TASK = Task("segmentation", ("road", "car", "pole"), ((0, 0, 0),) * 3)
BINARY = Task("segmentation", ("no", "yes"), ((0, 0, 0),) * 2)
CARS = Task("classification", ("a", "b", "c"), ((0, 0, 0),) * 3, ignore_index=-100)
OPTIONS = {
    "bootstrapped_ce": {"top_p": 0.25},
    "bootstrapped_bce_with_logits": {"top_p": 0.25},
    "ohem": {"min_kept": 10},
}


def build(name, task=TASK, **options):
    if name == "mined":
        options = {"loss": components.cross_entropy(task), "top_p": 0.25} | options
    if name == "weighted_sum":
        terms = {"ce": WeightedTerm(components.cross_entropy(task)), "dice": WeightedTerm(components.dice(task), 0.5)}
        options = {"terms": terms} | options
    return as_criterion(CRITERIA[name](task, **(OPTIONS.get(name, {}) | options)), task)


def scene(task=TASK, channels=3, *, seed=0, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    size = (12, 10) if task.kind == "segmentation" else ()
    logits = torch.randn(batch, channels, *size, generator=generator, dtype=dtype)
    target = torch.randint(0, task.num_classes, (batch, *size), generator=generator)
    if task.kind == "segmentation":
        target[:, :3] = task.ignore_index
        return logits.requires_grad_(), target.byte()
    return logits.requires_grad_(), target


def numbers(loss):
    return {key: float(log) for key, log in loss.logs.items()}


OF_AN_IMAGE_HEAD = {"image_presence"}  # takes other inputs: tests/losses/test_presence.py


@pytest.fixture(params=[name for name in CRITERIA if name not in OF_AN_IMAGE_HEAD])
def name(request):
    return request.param


@pytest.mark.parametrize("task", [TASK, BINARY, CARS], ids=["segmentation", "binary", "classification"])
def test_every_criterion_gives_a_finite_loss_a_gradient_and_its_mass(name, task):
    criterion = build(name, task)
    logits, target = scene(task, task.channels(criterion.link), batch=8)
    for step in (0, 1000):
        loss = criterion(logits, target, step)
        assert loss.value.shape == ()
        assert loss.value.isfinite()
        assert {log.dtype for log in loss.logs.values()} == {torch.float64}
        assert not any(log.requires_grad for log in loss.logs.values())
        (gradient,) = torch.autograd.grad(loss.value, logits)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
        assert not gradient.movedim(1, -1)[target == task.ignore_index].any()
    mass = criterion.mass(target)
    assert mass.dtype == torch.float64
    assert mass.shape == (len(criterion.names),)
    assert (mass > 0).all()
    counts = [loss.logs[f"all_count/{term}"] for term in criterion.names]
    if name not in REGION_LOSSES and name != "weighted_sum":
        torch.testing.assert_close(mass, torch.stack(counts))


def test_every_criterion_survives_an_ignored_batch_and_says_so(name):
    criterion = build(name)
    logits, target = scene(channels=TASK.channels(criterion.link))
    with torch.no_grad():
        logits[0, 0, 0, 0] = math.nan
    loss = criterion(logits, torch.full_like(target, 255), 0)
    assert loss.value.item() == 0
    loss.value.backward()
    assert logits.grad.abs().sum() == 0
    assert criterion.mass(torch.full_like(target, 255)).sum() == 0
    assert criterion.scalars(numbers(loss))["train/empty_batches"] == 1
    assert all(math.isfinite(value) for value in criterion.scalars(numbers(loss)).values())
    assert criterion.inspect(logits, torch.full_like(target, 255), 0) is None or name in {
        "bootstrapped_ce",
        "bootstrapped_bce_with_logits",
        "mined",
        "ohem",
    }


def test_a_label_out_of_range_makes_every_loss_nan_and_can_be_named(name):
    criterion = build(name)
    logits, target = scene(channels=TASK.channels(criterion.link))
    target[0, 5, :4] = 17
    loss = criterion(logits, target, 0).value
    assert loss.isnan()
    loss.backward()
    assert logits.grad.isnan().any()
    with pytest.raises(ValueError, match=r"17 \(4 times\); expected 0 to 2 for 3 classes, or ignore_index 255"):
        check_target(target, 3, 255)


def test_a_log_can_say_what_computes_a_criterion():
    assert build("bootstrapped_ce").path(torch.device("cpu")) == "blocks"
    assert build("weighted_sum").path(torch.device("meta")) == "plain torch"
    assert build("dice").path(torch.device("cpu")) == "plain torch"


def test_a_step_asks_nothing_of_the_host(name):
    # meta tensors have no values: whoever wants to see one, or mixes in a tensor from elsewhere, fails
    if name == "bce":
        pytest.skip("torch.autocast does not know the meta device")
    criterion = build(name, class_weights=[1.0, 2.0, 3.0]) if name not in {"mined", "weighted_sum"} else build(name)
    criterion = criterion.to("meta")
    logits, target = (x.to("meta") for x in scene(channels=TASK.channels(criterion.link)))
    loss = criterion(logits, target, 0, torch.ones(len(criterion.names), dtype=torch.float64, device="meta"))
    torch.autograd.grad(loss.value, logits)
    assert all(log.device.type == "meta" for log in loss.logs.values())
    assert criterion.mass(target).device.type == "meta"


def test_mining_with_every_option_asks_nothing_of_the_host():
    for options in ({"scope": "image"}, {"skip_hardest": 0.1}, {"min_per_class": 3, "scope": "image"}):
        criterion = build("bootstrapped_ce", **options).to("meta")
        criterion(*(x.to("meta") for x in scene()), 0)


def test_every_criterion_can_be_copied_and_pickled_and_has_no_state(name):
    criterion = build(name)
    logits, target = scene(channels=TASK.channels(criterion.link))
    value = criterion(logits, target, 0).value
    for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert twin(logits, target, 0).value.item() == value.item()
    assert criterion.state_dict() == {}


def test_every_component_has_a_docstring_and_a_type_for_each_key(name):
    assert CRITERIA[name].__doc__
    assert all(parameter.annotation is not parameter.empty for parameter in parameters(CRITERIA[name]).values())


def test_soft_targets_are_those_of_the_logits_shape():
    logits, target = scene()
    soft = torch.softmax(scene(seed=1)[0].detach(), 1)
    for name in ("cross_entropy", "bootstrapped_ce", "kl_div", "bce_with_logits", "mse", "dice"):
        criterion = build(name)
        loss = criterion(logits, soft, 0)
        assert loss.value.isfinite()
        assert criterion.mass(soft).sum() > 0
        criterion.scalars(numbers(loss))
        criterion.inspect(logits, soft, 0)
    expected = F.kl_div(logits.log_softmax(1), soft, reduction="none").mean()
    with pytest.raises(ValueError, match=r"float target of shape \(2, 12, 10\)"):
        build("cross_entropy")(logits, target.float(), 0)
    torch.testing.assert_close(build("kl_div")(logits, soft, 0).value, expected)


def test_a_weighted_sum_adds_means_with_their_own_denominators():
    weights = [1.0, 2.0, 10.0]
    terms = {
        "ce": WeightedTerm(components.cross_entropy(TASK, class_weights=weights), 0.5),
        "mse": WeightedTerm(components.mse(TASK), linear(start=0, end=10)),
        "inner": WeightedTerm(
            weighted_sum(
                TASK, terms={"dice": WeightedTerm(components.dice(TASK), 2.0), "l1": WeightedTerm(components.l1(TASK))}
            ),
            between(1.0, 0.0, linear(start=0, end=10)),
        ),
    }
    criterion = weighted_sum(TASK, terms=terms)
    assert criterion.names == ["ce", "mse", "inner/dice", "inner/l1"]
    logits, target = scene()
    alone = {
        name: as_criterion(component, TASK)(logits, target, 0).value
        for name, component in (
            ("ce", terms["ce"].criterion),
            ("mse", components.mse(TASK)),
            ("dice", components.dice(TASK)),
            ("l1", components.l1(TASK)),
        )
    }
    loss = criterion(logits, target, 5)
    expected = 0.5 * alone["ce"] + 0.5 * alone["mse"] + 0.5 * (2 * alone["dice"] + alone["l1"])
    torch.testing.assert_close(loss.value, expected)
    scalars = criterion.scalars(numbers(loss))
    assert scalars["train/loss"] == pytest.approx(expected.item())
    assert scalars["train/loss_all"] == pytest.approx(expected.item())
    assert scalars["train/loss/mse"] == pytest.approx(0.5 * alone["mse"].item())
    assert sum(value for tag, value in scalars.items() if tag.startswith("train/loss/")) == pytest.approx(
        expected.item()
    )


def test_a_mined_sum_has_one_selection_ranked_by_the_named_term():
    sum_ = weighted_sum(
        TASK, terms={"ce": WeightedTerm(components.cross_entropy(TASK)), "mse": WeightedTerm(components.mse(TASK), 3.0)}
    )
    criterion = mined(TASK, loss=sum_, top_p=0.2, rank_by="ce")
    logits, target = scene()
    ce = components.cross_entropy(TASK)(logits, target)
    kept = ce.hardness.flatten().topk(math.floor(0.2 * ce.valid.sum() + 1e-6)).indices
    mse = components.mse(TASK)(logits, target).value.flatten()[kept].mean() / 3
    torch.testing.assert_close(criterion(logits, target, 0).value, ce.value.flatten()[kept].mean() + 3 * mse)
    weighted = components.cross_entropy(TASK, class_weights=[0.0, 1.0, 1.0])
    sum_ = weighted_sum(
        TASK, terms={"ce": WeightedTerm(components.cross_entropy(TASK)), "some": WeightedTerm(weighted)}
    )
    criterion = mined(TASK, loss=sum_, top_p=1.0, rank_by="ce")
    valid = ((target == 1) | (target == 2)).sum()
    assert criterion(logits, target, 0).logs["mining/kept"] == valid  # valid is what is valid in all
    assert criterion.mass(target).tolist() == [valid, valid]


def test_two_mined_terms_have_tags_of_their_own():
    criterion = weighted_sum(
        TASK,
        terms={
            "a": WeightedTerm(bootstrapped_ce(TASK, top_p=0.5)),
            "b": WeightedTerm(mined(TASK, loss=components.mse(TASK), top_p=0.1)),
        },
    )
    scalars = criterion.scalars(numbers(criterion(*scene(), 0)))
    assert scalars["mining/a/top_p_target"] == 0.5
    assert scalars["mining/b/top_p_target"] == 0.1


def test_micro_batches_at_p_1_minimise_the_mean_over_the_step():
    criterion = build("bootstrapped_ce", top_p=1.0, class_weights=[1.0, 2.0, 5.0])
    logits, target = scene(batch=6, dtype=torch.float64)
    target[0] = 255
    cut = [slice(0, 1), slice(1, 3), slice(3, 6)]
    mass = torch.stack([criterion.mass(target[part]) for part in cut])
    losses = [
        criterion(logits[part], target[part], 0, share) for part, share in zip(cut, mass / mass.sum(0), strict=True)
    ]
    whole = criterion(logits, target, 0)
    value = sum(loss.value for loss in losses)
    torch.testing.assert_close(value, whole.value)
    torch.testing.assert_close(torch.autograd.grad(value, logits), torch.autograd.grad(whole.value, logits))
    added = {key: sum(numbers(loss)[key] for loss in losses) for key in whole.logs}
    assert criterion.scalars(added)["train/loss"] == pytest.approx(whole.value.item())
    assert criterion.scalars(added)["train/loss_all"] == pytest.approx(whole.value.item())


def test_a_term_without_mass_in_a_step_does_not_dilute_the_others():
    class_weights = [0.0, 0.0, 1.0]
    criterion = weighted_sum(
        TASK,
        terms={
            "all": WeightedTerm(components.cross_entropy(TASK)),
            "poles": WeightedTerm(components.cross_entropy(TASK, class_weights=class_weights)),
        },
    )
    logits, target = scene()
    target[target == 2] = 0
    share = criterion.mass(target) / criterion.mass(target).clamp(min=1)
    loss = criterion(logits, target, 0, share)
    assert criterion.scalars(numbers(loss))["train/loss"] == pytest.approx(loss.value.item())


def test_the_scalars_tell_what_was_mined():
    criterion = build("bootstrapped_ce", warmup=linear(start=0, end=2))
    logits, target = scene()
    losses = [criterion(logits, target, step) for step in (0, 1, 2)]
    each = [criterion.scalars(numbers(loss)) for loss in losses]
    assert [scalars["mining/top_p_target"] for scalars in each] == [1.0, 0.625, 0.25]
    assert each[0]["train/loss"] == pytest.approx(each[0]["train/loss_all"])
    assert each[2]["train/loss"] > each[2]["train/loss_all"] == pytest.approx(each[0]["train/loss_all"])
    assert each[2]["mining/top_p_effective"] == 0.25
    assert each[2]["mining/kept_pixels"] == 45
    assert each[2]["mining/valid_fraction"] == 0.75
    hardness = F.cross_entropy(logits, target.long(), ignore_index=255, reduction="none").flatten()
    top = hardness.topk(45).values
    assert each[2]["mining/threshold"] == pytest.approx(top[-1].item())
    assert each[2]["mining/loss_share"] == pytest.approx((top.sum() / hardness.sum()).item(), rel=1e-6)
    together = criterion.scalars({key: sum(float(loss.logs[key]) for loss in losses) for key in losses[0].logs})
    assert together["mining/top_p_target"] == pytest.approx(0.625)
    assert together["train/loss"] == pytest.approx(sum(scalars["train/loss"] for scalars in each) / 3)


def test_the_planned_share_can_be_asked_for():
    criterion = build("bootstrapped_ce", warmup=linear(start=10, end=20))
    assert [criterion.mined_share(step) for step in (0, 10, 15, 20, 10**9)] == [1.0, 1.0, 0.625, 0.25, 0.25]
    assert build("cross_entropy").mined_share(0) is None
    assert build("ohem").mined_share(0) is None


def test_inspection_shows_what_is_mined_and_why():
    criterion = build("bootstrapped_ce")
    logits, target = scene()
    target[:] = torch.arange(3, dtype=torch.uint8).repeat_interleave(4)[:, None]
    with torch.no_grad():
        logits[:] = 12.0 * F.one_hot(target.long(), 3).movedim(-1, 1)
        logits[0, :, 6, 6] = torch.tensor([9.0, 0.0, 0.0])  # a car that is surely a road
    seen = criterion.inspect(logits, target, 0)
    assert seen.share.shape == target.shape
    assert seen.share.sum().item() == pytest.approx(60)
    assert seen.share[0, 6, 6] == 1
    assert seen.top_p == 0.25
    assert seen.scalars["mining/confident_wrong"] == pytest.approx(1 / 60)
    assert seen.scalars["mining/easy_fraction"] == pytest.approx(59 / 60)
    assert seen.scalars["mining/pixels_for_99pct_loss"] == pytest.approx(1 / 240)
    assert sum(seen.scalars[f"mining/class_share/{name}"] for name in TASK.classes) == pytest.approx(1)
    assert seen.scalars["mining/class_lift/car"] > seen.scalars["mining/class_lift/pole"]
    assert not seen.hardness.requires_grad
    loss = criterion(logits, target, 0)
    assert seen.threshold.item() == pytest.approx(criterion.scalars(numbers(loss))["mining/threshold"])
    assert build("cross_entropy").inspect(logits, target, 0) is None


def test_the_natural_share_is_the_smallest_that_carries_the_loss():
    def share(*hardness, valid=True):
        losses = torch.tensor(hardness)
        return natural_share(losses, torch.full_like(losses, valid, dtype=torch.bool)).item()

    assert share(0.0, 99.0, 1.0, 0.0) == 0.25
    assert share(0.0, 98.0, 2.0, 0.0) == 0.5
    assert share(*[1.0] * 100) == pytest.approx(0.99)
    assert share(*[0.0] * 4) == 0.25
    assert math.isnan(share(1.0, 2.0, valid=False))
    assert math.isnan(share(1.0, math.inf))
    losses, other = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    losses, valid = losses**9, other > 0.1
    running = losses[valid].double().sort(descending=True).values.cumsum(0)
    assert natural_share(losses, valid).item() == ((running < 0.99 * running[-1]).sum() + 1).item() / valid.sum().item()


def test_label_changes_are_found_and_ignored_pixels_make_none():
    target = torch.zeros(1, 9, 9, dtype=torch.uint8)
    target[:, :, 5:] = 1
    near = near_label_change(target, 255)
    assert near[0, 0].tolist() == [False, False, True, True, True, True, True, True, False]
    target[:, :, 5:] = 255
    assert not near_label_change(target, 255).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: bootstrapped_ce(TASK, top_p=25), r"top_p 25; expected a share of the valid pixels in \(0, 1\]"),
        (lambda: bootstrapped_ce(CARS, top_p=0.2, scope="image"), "scope 'image' in classification"),
        (lambda: bootstrapped_ce(TASK, top_p=0.2, class_weights=[1.0]), "1 class weights; .* each of the 3 classes"),
        (lambda: components.cross_entropy(TASK, label_smoothing=10), "label_smoothing 10; expected 0 to 1"),
        (lambda: components.focal(TASK, gamma=-1), "gamma -1; expected a number >= 0"),
        (lambda: components.bce_with_logits(TASK, pos_weight=[1.0]), "1 class weights; .* 3 classes"),
        (lambda: components.dice(BINARY, link="sigmoid", class_weights=[1.0, 1.0]), "class_weights for dice"),
        (lambda: mined(TASK, loss=components.dice(TASK), top_p=0.2), "dice cannot be mined: it is a loss of a whole"),
        (lambda: mined(TASK, loss=components.lovasz(TASK), top_p=0.2), "lovasz cannot be mined"),
        (lambda: mined(TASK, loss=ohem(TASK), top_p=0.2), "a mined criterion cannot be mined again"),
        (lambda: mined(TASK, loss=build("weighted_sum"), top_p=0.2), "dice cannot be mined"),
        (lambda: weighted_sum(TASK, terms={}), "weighted_sum without terms"),
        (
            lambda: weighted_sum(TASK, terms={"ce": WeightedTerm(components.cross_entropy(TASK), math.nan)}),
            "weight nan of term 'ce'",
        ),
        (
            lambda: weighted_sum(
                TASK,
                terms={
                    "a": WeightedTerm(components.cross_entropy(TASK)),
                    "b": WeightedTerm(components.bce_with_logits(TASK)),
                },
            ),
            "some through a softmax and some through sigmoids; expected one link",
        ),
        (
            lambda: mined(
                TASK,
                top_p=0.2,
                loss=weighted_sum(
                    TASK,
                    terms={
                        "a": WeightedTerm(components.cross_entropy(TASK)),
                        "b": WeightedTerm(components.mse(TASK)),
                    },
                ),
            ),
            "rank_by is missing; expected the term that ranks the pixels: a, b",
        ),
        (
            lambda: mined(TASK, loss=components.cross_entropy(TASK), top_p=0.2, rank_by="x"),
            "rank_by 'x' is no term of the sum; expected one of loss",
        ),
    ],
)
def test_a_bad_argument_is_named_at_construction(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_accuracy_of_a_classification_is_that_of_the_labelled_samples():
    criterion = as_criterion(components.cross_entropy(CARS), CARS)
    logits, target = torch.eye(3)[[0, 1, 2, 0, 0]], torch.tensor([0, 1, 1, CARS.ignore_index, 2])
    assert criterion.scalars(criterion(logits, target, 0).logs)["train/accuracy"] == 0.5
