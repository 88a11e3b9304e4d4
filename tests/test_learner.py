import copy
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from waits import NoHostSync, Reads

from segtrain.errors import CheckpointError, TrainingError
from segtrain.task import Batch

PLAIN = ("criterion={name: cross_entropy}", "model.dropout=0", "train.ema=null", "validate.weights=raw")


def batches(built, count, start=0):
    return list(islice(built.loader.start(start), count))


def weights(learner):
    return [p.detach().clone() for p in learner.model.parameters()]


def test_a_step_is_that_of_a_bare_loop(tiny):
    built = tiny(*PLAIN, "model.double=true")
    learner = built.learner
    bare = copy.deepcopy(learner.model)
    optimizer = torch.optim.AdamW(bare.parameters(), lr=1e-2, weight_decay=0.01)
    for step, batch in enumerate(batches(built, 5)):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 2) * (1 - step / 8) ** 0.9
        F.cross_entropy(bare(batch.image), batch.target.long(), ignore_index=255).backward()
        torch.nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        learner.update([batch])
    for ours, theirs in zip(learner.model.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "criterion",
    [
        "{name: cross_entropy, class_weights: [1, 2, 3, 1, 5, 9, 9]}",
        "{name: label_smoothed_ce, label_smoothing: 0.1}",
        "{name: bootstrapped_ce, top_p: 1.0}",
    ],
)
def test_three_micro_batches_make_the_step_of_the_whole_batch(tiny, criterion):
    setup = (*PLAIN, "model.double=true", f"criterion={criterion}", "optimizer={name: sgd, lr: 0.1}")
    one, three = tiny(*setup), tiny(*setup)
    parts = batches(one, 3)
    parts[1].target[0] = 255  # unequal numbers of valid pixels
    parts[2].target[:, :20] = 255
    whole = Batch(*(torch.cat(x) for x in zip(*(part[:2] for part in parts), strict=True)), ("a",))
    one.learner.update([whole])
    three.learner.update(parts)
    for a, b in zip(one.learner.model.parameters(), three.learner.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_a_step_of_nothing_but_ignored_pixels_is_quiet(tiny):
    learner = tiny(*PLAIN).learner
    before = weights(learner)
    empty = Batch(
        torch.zeros(2, 3, 24, 24, dtype=torch.uint8), torch.full((2, 24, 24), 255, dtype=torch.uint8), ("a", "b")
    )
    for group in learner.optimizer.param_groups:
        group["weight_decay"] = 0.0
    learner.update([empty])
    learner.update([empty, empty])
    scalars = learner.read_logs()
    assert scalars["train/loss"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, weights(learner), strict=True))


def test_a_resumed_learner_goes_on_exactly(tiny):
    whole = tiny()
    for batch in batches(whole, 6):
        whole.learner.update([batch])
    expected = copy.deepcopy(whole.learner.state_dict())
    first = tiny()
    for batch in batches(first, 3):
        first.learner.update([batch])
    state = copy.deepcopy(first.learner.state_dict())
    second = tiny("seed=9")
    second.learner.load_state_dict(state)
    for batch in batches(first, 3, start=3):
        second.learner.update([batch])
    for (name, a), (_, b) in zip(_flat(expected), _flat(second.learner.state_dict()), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


def _flat(value, path="state"):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _flat(item, f"{path}.{index}")
    else:
        yield path, value


@pytest.mark.parametrize(
    "criterion",
    [
        "{name: bootstrapped_ce, top_p: 0.25, warmup: 2, class_weights: [1, 2, 3, 1, 5, 9, 9], label_smoothing: 0.1}",
        "{name: bootstrapped_ce, top_p: 0.25, scope: image, skip_hardest: 0.01, min_per_class: 5}",
        "{name: bootstrapped_bce_with_logits, top_p: 0.25}",
        "{name: weighted_sum, terms: {a: {criterion: {name: dice}}, b: {criterion: {name: ohem, min_kept: 9}}}}",
    ],
)
def test_a_step_that_does_not_log_never_waits_for_the_device(tiny, criterion):
    built = tiny(f"criterion={criterion}", "train.on_nonfinite=raise")
    parts = batches(built, 4)
    built.learner.update(parts[:2])  # the first step of an optimizer sets up its state
    with NoHostSync(), Reads() as reads:
        logits = built.learner.update(parts[2:])
        built.learner.criterion.inspect(logits, parts[-1].target, 3)
    assert not reads.counts


def test_what_was_logged_comes_in_one_transfer_with_what_else_there_is_to_read(tiny):
    learner = tiny(*PLAIN).learner
    for batch in batches(tiny(*PLAIN), 2):
        learner.update([batch])
    with NoHostSync(), Reads() as reads:
        scalars = learner.read_logs({"more": torch.tensor(3)})
    assert reads.counts == {"tolist": 1}
    assert scalars["more"] == 3
    assert scalars["train/loss"] > 0
    assert learner.read_logs() == {}


def test_a_non_finite_gradient_leaves_the_weights_alone_and_names_the_files(tiny):
    built = tiny(*PLAIN)
    learner = built.learner
    good, bad = batches(built, 2)
    learner.update([good])
    before = weights(learner)
    learner.model.head[1].bias.register_hook(lambda gradient: gradient * float("nan"))
    learner.update([bad])
    assert all(torch.equal(a, b) for a, b in zip(before, weights(learner), strict=True))
    with pytest.raises(TrainingError, match=rf"step 1: the gradient is not finite.*{bad.ids[0]}"):
        learner.read_logs()


def test_a_skipped_step_moves_nothing(tiny):
    built = tiny("train.on_nonfinite=skip", "train.max_nonfinite=2")
    learner = built.learner
    first, bad, _last = batches(built, 3)
    learner.update([first])
    before = copy.deepcopy([learner.step, weights(learner), learner.ema.module.state_dict()])
    handle = learner.model.head[1].bias.register_hook(lambda gradient: gradient * float("inf"))
    learner.update([bad])
    assert (learner.step, learner.skipped) == (1, 1)
    assert str(before) == str([learner.step, weights(learner), learner.ema.module.state_dict()])
    with pytest.raises(TrainingError, match="2 steps in a row"):
        learner.update([bad])
    handle.remove()


def test_the_encoder_can_learn_at_its_own_rate(tiny):
    learner = tiny("optimizer.encoder_lr=1e-4", "schedule=null").learner
    rates = {group["name"]: group["base_lr"] for group in learner.optimizer.param_groups}
    assert rates == {"encoder": 1e-4, "head": 1e-2}


def test_a_skipped_step_is_not_in_the_logs(tiny):
    built = tiny("train.on_nonfinite=skip")
    first, bad = batches(built, 2)
    handle = built.learner.model.head[1].bias.register_hook(lambda gradient: gradient * float("nan"))
    built.learner.update([bad])
    assert built.learner.read_logs() == {}
    handle.remove()
    built.learner.update([first])
    assert built.learner.read_logs()["train/skipped_steps"] == 1


def test_fp16_gradients_that_never_fit_end_the_run(tiny):
    learner = tiny("model.dropout=0").learner
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    (batch,) = batches(tiny(), 1)
    learner.update([batch])
    assert (learner.step, learner.skipped) == (1, 0)
    learner.model.head[1].bias.register_hook(lambda gradient: gradient * float("nan"))
    for _ in range(3):
        learner.update([batch])
    assert (learner.step, learner.skipped, learner.scaler.get_scale()) == (1, 3, 0.5)
    with pytest.raises(TrainingError, match="not finite at any scale"):
        learner.update([batch])


def test_a_compiled_forward_is_used_as_it_is(tiny):
    learner = tiny("train.compile=true").learner
    assert learner.forward is not learner.model
    assert hasattr(learner.forward, "_orig_mod")


def test_a_resumed_learner_has_the_rates_of_its_configuration(tiny):
    first, second = tiny(), tiny("optimizer.lr=3e-3", "optimizer.weight_decay=0.2")
    first.learner.update(batches(first, 1))
    second.learner.load_state_dict(first.learner.state_dict())
    for group in second.learner.optimizer.param_groups:
        assert (group["base_lr"], group["weight_decay"]) == (3e-3, 0.2)


def test_a_checkpoint_of_another_model_is_refused_with_both_shapes(tiny):
    first, second = tiny(), tiny("model.width=6")
    with pytest.raises(CheckpointError, match=r"encoder\.0\.weight.*\[4, 3, 3, 3\].*\[6, 3, 3, 3\]"):
        second.learner.load_state_dict(first.learner.state_dict())


def test_what_a_step_logs_has_the_documented_tags(tiny):
    built = tiny("criterion.warmup=null")
    for batch in batches(built, 3):
        built.learner.update([batch])
    scalars = built.learner.read_logs()
    assert {"train/loss", "train/loss_all", "train/grad_norm", "optim/lr/head", "mining/threshold"} <= scalars.keys()
    assert scalars["mining/top_p_target"] == 0.25
    assert scalars["mining/top_p_effective"] == pytest.approx(0.25, abs=1e-3)
    assert scalars["train/loss"] > scalars["train/loss_all"] > 0
    assert 0.25 < scalars["mining/loss_share"] <= 1
    assert built.learner.read_logs() == {}
