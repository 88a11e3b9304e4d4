"""Batches that give no gradient, or one that is not finite: told with their files, kept to be looked at."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from processes import TINY, kill_at, run, wrapped
from states import digest

sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))
from ranks import on_ranks

from segtrain.build import build, register_components
from segtrain.checkpoint import load
from segtrain.cli.train import main
from segtrain.config import load as load_config
from segtrain.learner import Learner
from segtrain.losses.criterion import Criterion

pytestmark = pytest.mark.usefixtures("in_tmp")
RUN = [
    *TINY,
    "--run-dir",
    "run",
    "--quiet",
    "log.every=4",
    "checkpoint.every=4",
    "train.accumulate=2",
    "train.steps=12",
]


def poison(*steps, forward=Criterion.forward):
    """The loss of the second micro-batch is NaN in these steps."""
    calls = []

    def poisoned(self, logits, target, step, share=None):
        calls.append(step)
        bad = step in steps and calls.count(step) == 2
        return forward(self, logits * float("nan") if bad else logits, target, step, share)

    Criterion.forward = poisoned


def expected_batches(step, rank=0, world=1):
    """What a rank is given in a step."""
    register_components(["tiny_components"])
    config, source = load_config(Path(TINY[-1]), ["train.accumulate=2"])
    loader = build(config, source, torch.device("cpu")).loader
    return type(loader)(loader.source, loader.batch_size, 0, rank, world, 60).again(step * 2, 2)


def test_a_loss_that_is_nan_ends_the_run_with_the_files_and_keeps_the_batch():
    code, said = run(*RUN, fault=lambda: poison(5))
    assert code == 1
    first, second = expected_batches(5)
    names = ", ".join((*first.ids, *second.ids))
    assert (
        f"error: step 5: the gradient is not finite (NaN or infinite): gradient norm nan, loss nan. Batch: {names}"
        in said
    )
    assert "the batch is kept in run/nan-batch.pt" in said
    assert "Traceback" not in said
    kept = load("run/nan-batch.pt")["batches"]
    for batch, saved in zip((first, second), kept, strict=True):
        assert saved["rank"] == 0
        assert tuple(saved["ids"]) == batch.ids
        assert torch.equal(saved["image"], batch.image)
        assert torch.equal(saved["target"], batch.target)
    assert load("run/checkpoints/last.pt")["step"] == 4, "nothing was saved after it"
    status = json.loads(Path("run/status.json").read_text())
    assert status["status"] == "failed"
    assert "kept in run/nan-batch.pt" in status["error"]


def test_a_run_that_ended_with_a_nan_goes_on_from_before_it():
    assert run(*RUN)[0] == 0
    whole = digest("run/checkpoints/last.pt")
    os.rename("run", "whole")
    assert run(*RUN, fault=lambda: poison(5))[0] == 1
    code, said = run(*RUN, "--resume", "auto")
    assert code == 0, said
    assert digest("run/checkpoints/last.pt") == whole


def test_steps_can_be_skipped_up_to_a_bound_and_are_counted():
    skip = ["train.on_nonfinite=skip", "train.max_nonfinite=3"]
    code, said = run(*RUN, *skip, fault=lambda: poison(2, 7))
    assert code == 0, said
    steps = [json.loads(line) for line in Path("run/steps.jsonl").read_text().splitlines()]
    assert [row["train/skipped_steps"] for row in steps] == [1, 2, 2]
    os.rename("run", "first")

    def always():
        wrapped(Learner, "_attempt", lambda _, batches, norm, logs: norm.fill_(float("nan")))

    code, said = run(*RUN, *skip, fault=always)
    assert code == 1
    assert (
        "error: step 0: 3 steps in a row had a non-finite gradient and were skipped (train.max_nonfinite is 3)" in said
    )
    kept = load("run/nan-batch.pt")["batches"]
    third = expected_batches(2)  # the third attempt at step 0
    assert [tuple(batch["ids"]) for batch in kept] == [batch.ids for batch in third]


def nan_on_rank_1(arguments):
    if os.environ["RANK"] == "1":
        poison(5)
    sys.stderr = open(f"said-{os.environ['RANK']}.txt", "w")  # noqa: SIM115
    code = main(arguments)
    sys.stderr.flush()
    return code


@pytest.mark.distributed
def test_a_nan_on_one_of_two_ranks_stops_both_at_its_step_and_names_the_files_of_that_rank():
    assert on_ranks(2, nan_on_rank_1, RUN, joined=False) == [1, 1]
    first, second = expected_batches(5, rank=1, world=2)
    names = ", ".join((*first.ids, *second.ids))
    for rank in (0, 1):
        said = Path(f"said-{rank}.txt").read_text()
        assert "step 5: the gradient is not finite (NaN or infinite): gradient norm nan, loss nan. Batch of" in said
        assert f"Batch of rank 1: {names}. Try" in said
    kept = load("run/nan-batch.pt")["batches"]
    assert [(batch["rank"], tuple(batch["ids"])) for batch in kept] == [(1, first.ids), (1, second.ids)]
    assert load("run/checkpoints/last.pt")["step"] == 4


# ---- batches without a label


def ignore(when):
    """The labels of steps for which `when(step)` holds are all ignored."""
    update = Learner.update

    def emptied(self, batches):
        if when(self.step):
            batches = [batch._replace(target=torch.full_like(batch.target, 255)) for batch in batches]
        return update(self, batches)

    Learner.update = emptied


def test_batches_without_a_label_are_counted_and_change_nothing_else():
    code, said = run(*RUN, fault=lambda: ignore(lambda step: step in (1, 2)))
    assert code == 0, said
    steps = [json.loads(line) for line in Path("run/steps.jsonl").read_text().splitlines()]
    assert [row["train/empty_batches"] for row in steps] == [4, 0, 0]


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_a_whole_epoch_without_a_label_ends_the_run(world):
    """An epoch of one process is 5 batches, so 2.5 steps; logs come every 2 steps."""

    def train(arguments):
        ignore(lambda step: step >= 4)
        sys.stderr = open(f"said-{os.environ['RANK']}.txt", "w")  # noqa: SIM115
        code = main(arguments)
        sys.stderr.flush()
        return code

    arguments = [*RUN, "log.every=2", "train.steps=40"]
    assert on_ranks(world, train, arguments, joined=False) == [1] * world
    said = Path("said-0.txt").read_text()
    assert f"step {8 if world == 1 else 6}: a whole epoch held nothing but ignored pixels" in said
    assert "Traceback" not in said


def test_a_resumed_run_is_not_taken_for_an_empty_one():
    """What it logs first has sums from before, also of batches that were empty."""
    arguments = [*RUN, "--overfit", "2", "log.every=3", "checkpoint.every=2", "train.accumulate=1", "train.steps=6"]

    def fault():
        kill_at(Learner, "update", lambda self, *_: self.step == 2)
        ignore(lambda step: step < 2)

    assert run(*arguments, fault=fault)[0] == -9
    code, said = run(*arguments, "--resume", "auto")
    assert code == 0, said


# ---- warm-ups


def test_the_share_that_is_mined_depends_on_finished_steps_alone():
    """Neither accumulation, nor skipped steps, nor a resume, nor an evaluation moves it."""
    warmup = ["criterion.warmup={name: linear, start: 2, end: 10}", "log.every=1", "validate.every=2"]
    arguments = [*RUN, *warmup, "train.on_nonfinite=skip"]
    assert run(*arguments, "--profile", "5", fault=lambda: poison(1, 3))[0] == 0
    code, said = run(*arguments, "--resume", "auto", fault=lambda: poison(7))
    assert code == 0, said
    rows = [json.loads(line) for line in Path("run/steps.jsonl").read_text().splitlines()]
    told = {row["step"]: row["mining/top_p_target"] for row in rows}
    assert rows[-1]["train/skipped_steps"] == 3
    shares = [1, 1, 1, *(1 - 0.75 * i / 8 for i in range(1, 8)), 0.25, 0.25]  # of steps 0 to 11
    assert told == pytest.approx({step + 1: share for step, share in enumerate(shares)})
