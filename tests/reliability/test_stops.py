"""Signals to a process or to its group, in every phase: the step is finished, the state saved, and nothing is lost."""

import json
import os
import signal
from pathlib import Path

import pytest
from processes import TINY, Child, run, stop_at
from states import digest

from segtrain.checkpoint import load
from segtrain.cli.train import training
from segtrain.cli.train.job import too_slow_to_stop
from segtrain.evaluator import Evaluator
from segtrain.learner import Learner

pytestmark = pytest.mark.usefixtures("in_tmp")
RUN = [
    *TINY,
    "data.workers=1",
    "data.val.length=16",  # more than is loaded ahead: an evaluation needs its loader after a signal too
    "data.val_batch_size=1",
    "train.steps=16",
    "criterion.warmup={name: linear, start: 2, end: 8}",
    "validate.every=6",
    "checkpoint.every=100",
    "log={every: 4, pictures: 0}",
    "--resume",
    "auto",
    "--quiet",
]
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143}
PHASES = {
    "warm-up": lambda: stop_at(Learner, "update", lambda self, *_: self.step == 5),
    "training": lambda: stop_at(Learner, "update", lambda self, *_: self.step == 13),
    "evaluation": lambda: stop_at(Evaluator, "_logits"),
}
BEFORE = {"building": "build", "data check": "check_labels"}
OFTEN = {  # the combinations of every commit; the others are nightly
    ("warm-up", signal.SIGUSR1, True),
    ("training", signal.SIGTERM, True),
    ("training", signal.SIGINT, False),
    ("evaluation", signal.SIGINT, True),
    ("evaluation", signal.SIGTERM, True),
    ("data check", signal.SIGTERM, True),
    ("data check", signal.SIGUSR1, False),
    ("building", signal.SIGINT, True),
}


def combinations(phases):
    for phase in phases:
        for number in CODES:
            for group in (False, True):
                marks = () if (phase, number, group) in OFTEN else pytest.mark.slow
                name = f"{phase}, {number.name} to the {'group' if group else 'process'}"
                yield pytest.param(phase, number, group, marks=marks, id=name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    home = tmp_path_factory.mktemp("uninterrupted")
    code, said = run(*RUN, "--run-dir", home / "run", log=home / "said.txt")
    assert code == 0, said
    return digest(home / "run/checkpoints/last.pt")


@pytest.mark.parametrize(("phase", "number", "group"), list(combinations(PHASES)))
def test_a_signal_in_training_saves_and_the_resumed_run_ends_as_the_uninterrupted_one(
    phase, number, group, uninterrupted
):
    child = Child([*RUN, "--run-dir", "run"], "said.txt", PHASES[phase])
    child.reached()
    child.send(number, group)
    assert child.end() == CODES[number], child.said()
    status = json.loads(Path("run/status.json").read_text())
    assert status["status"] == "interrupted"
    assert status["step"] == load("run/checkpoints/last.pt")["step"] == {"warm-up": 6, "training": 14}.get(phase, 6)
    assert f"stopped by signal {number.value}; --resume auto goes on" in Path("run/log.txt").read_text()
    code, said = run(*RUN, "--run-dir", "run")
    assert code == 0, said
    assert digest("run/checkpoints/last.pt") == uninterrupted


@pytest.mark.parametrize(("phase", "number", "group"), list(combinations(BEFORE)))
def test_a_signal_before_the_first_step_ends_the_process_and_leaves_nothing(phase, number, group):
    child = Child(
        [*RUN, "--run-dir", "run", "--check-data"],
        "said.txt",
        lambda: stop_at(training, BEFORE[phase], lambda *_: True),
    )
    child.reached()
    child.send(number, group)
    assert child.end() == CODES[number], child.said()
    assert child.said() == f"stopped by signal {number.value}\n"
    assert not Path("run").exists()


def test_a_second_signal_ends_at_once():
    fault = lambda: stop_at(Learner, "update", lambda self, *_: self.step == 5, twice=True)  # noqa: E731
    child = Child([*RUN, "--run-dir", "run"], "said.txt", fault)
    for _ in range(2):
        child.reached()
        child.send(signal.SIGTERM)
    assert child.end() == -signal.SIGTERM
    assert not list(Path("run/checkpoints").iterdir())


def test_a_signal_in_the_last_step_does_not_undo_that_the_run_is_finished():
    child = Child(
        [*RUN, "--run-dir", "run"], "said.txt", lambda: stop_at(Learner, "update", lambda s, *_: s.step == 15)
    )
    child.reached()
    child.send(signal.SIGTERM)
    assert child.end() == 0, child.said()
    assert json.loads(Path("run/status.json").read_text())["status"] == "finished"
    assert os.path.exists("run/checkpoints/best.pt")


def test_a_save_that_takes_long_is_warned_of_where_torchrun_would_not_wait_for_it(monkeypatch):
    assert too_slow_to_stop(100) is None, "alone nobody ends it"
    for name in ("LOCAL_RANK", "WORLD_SIZE", "RANK"):
        monkeypatch.setenv(name, "0")
    assert too_slow_to_stop(9) is None
    assert "of the 30 s that torchrun gives" in too_slow_to_stop(11)
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")
    assert too_slow_to_stop(11) is None
    assert "--shutdown-timeout" in too_slow_to_stop(41)
