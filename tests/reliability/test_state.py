"""The state in a checkpoint is complete: each part of it matters, and each is restored."""

import copy
import fnmatch
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import TINY as COMMAND
from processes import run
from states import digest_of

import segtrain
from segtrain.checkpoint import load as load_checkpoint
from segtrain.config import load as load_config
from segtrain.config.writer import plain_config
from segtrain.errors import CheckpointError, ConfigError
from segtrain.randomness import restore_rng, rng_state
from segtrain.resume import FREE, changes, completed
from segtrain.resume import _leaves as leaves
from segtrain.trainer import Every, Trainer

EVERYTHING = ["train.accumulate=2", "train.on_nonfinite=skip", "model.batch_norm=true"]


def trainer_of(built, **changes):
    every = Every(log=100, validate=100, save=100)
    needed = {"steps": 100, "every": every, "accumulate": 2, "evaluate": built.evaluator, "judge_ema": True}
    return Trainer(built.learner, built.loader, transfer=built.transfer, save=lambda *_: None, **{**needed, **changes})


@pytest.fixture
def fresh(tiny):
    """Builds a trainer that has done nothing, with a gradient scaler as fp16 has it if asked."""

    def make(scaler):
        trainer = trainer_of(tiny(*EVERYTHING))
        if scaler:
            trainer.learner.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
        return trainer

    return make


def advance(trainer, steps, bad=False):
    """Attempt some steps, with gradients that are not finite if `bad`; the digest of the state after each."""
    digests = []
    factor = float("nan") if bad else 1.0
    handle = trainer.learner.model.head[1].bias.register_hook(lambda gradient: gradient * factor)
    for _ in range(steps):
        learner = trainer.learner
        random.random()
        np.random.random()  # noqa: NPY002 - what third-party code may do
        learner.update(trainer.batches.again((learner.step + learner.skipped) * 2, 2))
        digests.append(digest_of(trainer.state_dict()))
    handle.remove()
    return digests


def parts(state):
    """The components of a state: its entries, with each random generator as one."""
    for key in state:
        if key == "rng":
            yield from (("rng", 0, generator) for generator in state["rng"][0])
        else:
            yield (key,)


def replaced(state, part, other):
    """A copy of `state` with one part from another."""
    state = copy.deepcopy(state)
    *way, last = part
    inner, source = state, other
    for key in way:
        inner, source = inner[key], source[key]
    inner[last] = copy.deepcopy(source[last])
    return state


def interrupted(trainer):
    """Some way into a run, with something in every component; the last attempt was skipped."""
    advance(trainer, 3)
    trainer.best.improves(0.5, 2)
    trainer.churn(trainer.evaluate(trainer.learner.model, 3).probes)
    advance(trainer, 1, bad=True)
    return copy.deepcopy(trainer.state_dict())


def test_a_component_that_is_not_restored_changes_the_run(fresh):
    """A mutant for each component, also for those to come: with what a new run has there, the digest is another."""
    seen = set()
    for scaler in (False, True):
        state = interrupted(fresh(scaler))
        beginning = copy.deepcopy(fresh(scaler).state_dict())

        def digests(changed, scaler=scaler):
            trainer = fresh(scaler)
            trainer.load_state_dict(changed)
            return advance(trainer, 1, bad=True) + advance(trainer, 3)

        expected = digests(copy.deepcopy(state))
        assert digests(copy.deepcopy(state)) == expected
        for part in parts(state):
            if digests(replaced(state, part, beginning)) != expected:
                seen.add(part)
    unseen = set(parts(state)) - seen
    assert unseen == ({("rng", 0, "cuda")} if not torch.cuda.is_available() else set())


def test_a_state_goes_on_as_if_it_had_never_been_saved(fresh):
    for scaler in (False, True):
        trainer, other = fresh(scaler), fresh(scaler)
        state = interrupted(trainer)
        expected = advance(trainer, 3)
        other.load_state_dict(state)
        assert advance(other, 3) == expected


@pytest.mark.parametrize(
    ("generator", "damaged"),
    [
        ("torch", torch.zeros(8, dtype=torch.uint8)),
        ("torch", [1, 2]),
        ("numpy", [torch.zeros(3, dtype=torch.int64), 0, 0, 0.0]),
        ("numpy", []),
        ("python", [3, [1, 2, 3], None]),
        ("python", None),
    ],
)
def test_random_states_that_cannot_be_restored_are_an_error(generator, damaged):
    before = rng_state()
    try:
        with pytest.raises(CheckpointError, match="random state of the checkpoint cannot be restored"):
            restore_rng({**before, generator: damaged})
    finally:
        restore_rng(before)


def test_a_checkpoint_of_a_run_with_an_average_holds_the_weights_and_the_average_apart_also_in_an_evaluation(tiny):
    built, seen = tiny(), []

    def evaluate(model, step):
        state = trainer.state_dict()
        seen.append((digest_of(state["model"]), digest_of(state["ema"]), digest_of(model.state_dict())))
        report = built.evaluator(model, step)
        assert digest_of(trainer.state_dict()["model"]) == seen[-1][0]
        return report

    trainer = trainer_of(built, steps=4, accumulate=1, every=Every(2, 2, 2), evaluate=evaluate)
    trainer.run()
    for (model, average, raw), (_, _, averaged) in zip(seen[::2], seen[1::2], strict=True):
        assert raw == model != average == averaged
    assert len(seen) == 4


# ---- resuming with another configuration

TINY = Path(__file__).parents[1] / "tiny.yaml"


def made_from(*overrides, **facts):
    config, _ = load_config(TINY, overrides)
    return {**plain_config(config), "ranks": 1, **facts}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optimizer.lr=2e-2", "optimizer.lr: 0.01 → 0.02"),
        ("criterion.top_p=0.5", "criterion.top_p: 0.25 → 0.5"),
        ("data.batch_size=4", "data.batch_size: 2 → 4"),
        ("model.width=6", "model.width: 4 → 6"),
        ("seed=1", "seed: 0 → 1"),
        ("train.ema.decay=0.5", "train.ema.decay: 0.9 → 0.5"),
        ("data.augment.1.p=0.25", "data.augment.1.p: 0.5 → 0.25"),
        ("data.train.length=12", "data.train.length: 10 → 12"),
        ("criterion={name: cross_entropy}", "criterion.name: bootstrapped_ce → cross_entropy"),
    ],
)
def test_what_changes_the_run_is_refused_by_name_with_both_values_unless_one_insists(override, line, tiny):
    with pytest.raises(ConfigError) as refused:
        changes(made_from(), made_from(override), [])
    assert f"cannot resume with another {line}" in refused.value.messages
    assert line in changes(made_from(), made_from(override), ["*"])


def test_another_number_of_ranks_or_of_samples_is_refused(tiny):
    for fact, old, new in (("ranks", 1, 2), ("flags", {"limit_train": None}, {"limit_train": 4})):
        with pytest.raises(ConfigError, match=f"cannot resume with another {fact}"):
            changes(made_from(**{fact: old}), made_from(**{fact: new}), [])


@pytest.mark.parametrize(
    "override",
    ["train.steps=80", "data.workers=3", "data.timeout=5", "log.every=1", "checkpoint.keep_last=7", "validate.every=2"],
)
def test_what_does_not_change_the_run_is_allowed_and_told(override, tiny):
    key = override.partition("=")[0]
    (line,) = changes(made_from(), made_from(override), [])
    assert line.startswith(f"{key}: ")


def test_every_key_that_is_free_exists(tiny):
    config, _ = load_config(TINY, ["data.train={name: folder_pairs, root: x}"])
    keys = [key for key, _ in leaves({**plain_config(config)})]
    for pattern in FREE:
        assert any(fnmatch.fnmatch(key, pattern) for key in keys), pattern


def test_a_key_that_came_later_has_its_default_in_an_older_checkpoint(tiny):
    older = made_from()
    del older["data"]["timeout"], older["train"]["on_nonfinite"], older["model"]["width"]
    del older["log"]["root"], older["init"], older["schedule"]["final"]
    assert changes(completed(older), made_from(), []) == []
    with pytest.raises(ConfigError, match=r"another model\.width: 4 → 6"):
        changes(completed(older), made_from("model.width=6"), [])


def test_a_key_that_is_gone_is_told_by_name(tiny):
    older = made_from()
    older["model"]["depth"] = 3
    with pytest.raises(ConfigError, match=r"another model\.depth: 3 → absent"):
        changes(completed(older), made_from(), [])


# ---- checkpoints of earlier versions

GOLDEN = Path(__file__).parents[1] / "golden/run-v1.pt"  # tests/tiny.yaml after 4 steps, by the first version


def test_a_run_of_the_first_version_goes_on_and_its_model_is_loaded_for_ever(in_tmp, tiny):
    """Weights, average, optimizer, counters, random generators; and a configuration that lacks later keys."""
    saved = load_checkpoint(GOLDEN)
    trainer = trainer_of(tiny(), accumulate=1)
    trainer.load_state_dict(copy.deepcopy(saved))
    again = trainer.state_dict()
    for state in (saved, again):
        state["optimizer"] = state["optimizer"]["state"]  # its groups have what the configuration says
    kept = [key for key in saved if key in again]
    assert [key for key in kept if digest_of(saved[key]) != digest_of(again[key])] == [], "all is restored"
    assert set(saved) - set(again) == {"config", "task"}
    code, said = run(*COMMAND, "--run-dir", "run", "--resume", str(GOLDEN), "--quiet")
    assert code == 0, said
    assert load_checkpoint("run/checkpoints/last.pt")["step"] == 8
    assert "resume from" in Path("run/log.txt").read_text()
    model = segtrain.load(GOLDEN)
    assert model.predict(np.zeros((24, 32, 3), np.uint8)).shape == (24, 32)
