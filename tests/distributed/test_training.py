"""Two or four ranks train the model that one process trains on the same global batch."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from ranks import on_ranks

from segtrain import distributed, parallel
from segtrain.build import build, first, register_components
from segtrain.config import load
from segtrain.data.loading import val_loader
from segtrain.data.scenes import scenes
from segtrain.errors import DataError
from segtrain.task import Batch

pytestmark = pytest.mark.distributed

TINY = Path(__file__).parents[1] / "tiny.yaml"
STEPS = 20


def global_batch(step, part):
    """8 images with unequal numbers of valid pixels: some half ignored, one wholly, ties by repeated images."""
    rng = np.random.default_rng([step, part])
    image = torch.from_numpy(rng.integers(0, 255, (8, 3, 12, 12), dtype=np.uint8))
    target = torch.from_numpy(rng.integers(0, 7, (8, 12, 12), dtype=np.uint8))
    image[1], target[1] = image[0], target[0]
    target[2, :, 6:] = 255
    target[3] = 255
    if step % 4 == 3:
        target[4:] = 255  # the last of two ranks sees nothing valid
    if step == 17:
        target[:] = 255
    return Batch(image, target, tuple("abcdefgh"))


def train(overrides, parts):
    """The parameters after 20 steps of this rank's share of the global batches, and what is logged of them."""
    register_components(["tiny_components"])
    plain = ["model.double=true", "model.dropout=0"]
    given = [] if any(override.startswith("model=") for override in overrides) else plain
    config, source = load(TINY, [*given, f"train.steps={STEPS}", *overrides])
    learner = build(config, source, torch.device("cpu")).learner
    rank, world = distributed.rank(), distributed.world_size()
    for step in range(STEPS):
        mine = []
        for part in range(parts):
            whole = global_batch(step, part)
            share = slice(rank * 8 // world, (rank + 1) * 8 // world)
            mine.append(Batch(whole.image[share], whole.target[share], whole.ids[share]))
        logits = learner.update(mine)
    parameters = torch.cat([parallel.whole(p.detach()).flatten() for p in learner.model.parameters()])
    seen = learner.criterion.inspect(logits, mine[-1].target, STEPS, over_ranks=True)
    return parameters.numpy(), learner.read_logs({} if seen is None else seen.scalars)


CRITERIA = {
    "mean": "{name: cross_entropy}",
    "class weights": "{name: cross_entropy, class_weights: [1, 2, 3, 1, 5, 9, 9]}",
    "mined": "{name: bootstrapped_ce, top_p: 0.2, warmup: {name: linear, start: 2, end: 10}}",
    "mined by image": "{name: bootstrapped_ce, top_p: 0.2, scope: image, label_smoothing: 0.1}",
    "bce": "{name: bootstrapped_bce_with_logits, top_p: 0.3}",
    "sum": "{name: weighted_sum, terms: {a: {weight: 0.7, criterion: {name: bootstrapped_ce, top_p: 0.3}}, "
    "b: {criterion: {name: label_smoothed_ce, class_weights: [1, 2, 3, 1, 5, 9, 9]}}}}",
    "region": "{name: weighted_sum, terms: {a: {criterion: {name: dice}}, b: {criterion: {name: cross_entropy}}}}",
}


def is_told(scalars, expected):
    """Every statistic of the ranks is the one of the single process, none is missing."""
    assert scalars == pytest.approx(expected, abs=1e-9, nan_ok=True)


WORLDS = [(2, name) for name in CRITERIA] + [
    pytest.param(4, name, marks=[] if name == "mined" else pytest.mark.slow) for name in CRITERIA
]


def test_ranks_train_an_image_head_as_one_process():
    terms = "{a: {criterion: {name: bootstrapped_ce, top_p: 0.3}}, b: {weight: 0.4, criterion: {name: image_presence}}}"
    overrides = ["model.image_head=true", f"criterion={{name: weighted_sum, terms: {terms}}}"]
    alone, scalars = train(overrides, 2)
    for parameters, theirs in on_ranks(2, train, overrides, 2):
        np.testing.assert_allclose(parameters, alone, rtol=0, atol=1e-12)
        assert theirs["train/loss/b"] == pytest.approx(scalars["train/loss/b"], abs=1e-9)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_train_from_logits_at_low_resolution_what_one_process_trains_from_full(strategy):
    overrides = [f"criterion={CRITERIA['mined']}"]
    model = "model={name: tiny_upsampled, deferred: %s}"
    alone, scalars = train([*overrides, model % "false"], 2)
    for parameters, theirs in on_ranks(2, train, [*overrides, model % "true", f"train.strategy={strategy}"], 2):
        np.testing.assert_allclose(parameters, alone, rtol=0, atol=1e-12)
        is_told(theirs, scalars)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("world", "criterion"), WORLDS)
def test_ranks_train_the_model_of_one_process(criterion, world, accumulate):
    overrides = [f"criterion={CRITERIA[criterion]}"]
    alone, scalars = train(overrides, accumulate)
    for parameters, theirs in on_ranks(world, train, overrides, accumulate):
        np.testing.assert_allclose(parameters, alone, rtol=0, atol=1e-12)
        is_told(theirs, scalars)


@pytest.mark.parametrize(
    ("criterion", "accumulate"),
    [("mined", 3), *(pytest.param(*which, marks=pytest.mark.slow) for which in [("mined", 1), ("sum", 1), ("sum", 3)])],
)
def test_shards_train_the_model_of_one_process(criterion, accumulate):
    overrides = [f"criterion={CRITERIA[criterion]}"]
    alone, scalars = train(overrides, accumulate)
    for parameters, theirs in on_ranks(2, train, [*overrides, "train.strategy=fsdp"], accumulate):
        np.testing.assert_allclose(parameters, alone, rtol=0, atol=1e-12)
        is_told(theirs, scalars)


def test_mining_on_each_rank_by_itself_trains_another_model():
    """What the equality above is worth: the usual way differs visibly."""
    alone, _ = train(["criterion={name: bootstrapped_ce, top_p: 0.2}"], 1)
    (parameters, _), _ = on_ranks(2, train, ["criterion={name: bootstrapped_ce, top_p: 0.2, scope: rank}"], 1)
    assert np.abs(parameters - alone).max() > 1e-3


def test_ranks_agree_on_an_encoder_that_rests_at_first():
    overrides = ["criterion={name: cross_entropy}", "optimizer.freeze_encoder=9"]
    alone, _ = train(overrides, 2)
    for parameters, _ in on_ranks(2, train, overrides, 2):
        np.testing.assert_allclose(parameters, alone, rtol=0, atol=1e-12)


def messages_of_a_step(criterion):
    """Bytes of each sum over ranks that the criterion of one step asks for."""
    register_components(["tiny_components"])
    built = build(*load(TINY, [f"criterion={criterion}"]), torch.device("cpu"))
    batch, sizes, all_reduce = next(built.loader.start(0)), [], torch.distributed.all_reduce

    def noting(tensor, *values):
        sizes.append(tensor.nbytes)
        return all_reduce(tensor, *values)

    torch.distributed.all_reduce = noting
    built.learner.update([batch])
    return sizes


def test_mining_over_ranks_sends_four_messages_more_than_a_mean_whatever_the_number_of_pixels():
    assert on_ranks(2, messages_of_a_step, "{name: cross_entropy}") == [[8]] * 2
    mined = [8, 16384, 16384, 8192, 8]  # valid pixels, a histogram per 11 bits of the losses, the mean's denominator
    assert on_ranks(2, messages_of_a_step, "{name: bootstrapped_ce, top_p: 0.25}") == [mined] * 2


def evaluate(val_length):
    register_components(["tiny_components"])
    config, source = load(TINY, [f"data.val.length={val_length}"])
    built = build(config, source, torch.device("cpu"))
    report = built.evaluator(built.learner.model, 0)
    return report.confusion, report.scalars["val/loss"], len(report.probes)


def test_a_validation_set_without_images_is_refused():
    with pytest.raises(DataError, match="the validation set is empty"):
        val_loader(first(scenes(length=1), 0), batch_size=1)


@pytest.mark.parametrize(("world", "val_length"), [(2, 21), (2, 1), (4, 3)])
def test_an_evaluation_counts_each_image_once_on_any_number_of_ranks(world, val_length):
    confusion, loss, _ = evaluate(val_length)
    for theirs, their_loss, _ in on_ranks(world, evaluate, val_length):
        assert np.array_equal(theirs, confusion)
        assert their_loss == pytest.approx(loss, rel=1e-6)
