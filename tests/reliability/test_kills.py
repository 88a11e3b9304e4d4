"""kill -9 of real processes: the run that goes on ends bit by bit as the one that nothing happened to.

Everything that a step depends on is in play: workers, accumulation, averaged weights, a gradient scaler, warm-ups of
mining and learning rate, dropout, augmentation, evaluations. Compared is every checkpoint on the way.
"""

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from processes import TINY, Child, kill_at, run, scaled
from states import digest

from segtrain import checkpoint, kept
from segtrain.evaluator import Evaluator
from segtrain.learner import Learner

pytestmark = pytest.mark.usefixtures("in_tmp")
EVERYTHING = [
    *TINY,
    "data.workers=2",
    "train.steps=24",
    "train.accumulate=2",
    "criterion.warmup={name: linear, start: 4, end: 12}",
    "validate.every=6",
    "checkpoint={every: 4, keep_last: 100}",
    "log={every: 3, pictures: 1}",
    "--resume",
    "auto",
    "--quiet",
]


def outcome(run_dir):
    """The digest of each checkpoint by its name, and what was logged without the times."""
    run_dir = Path(run_dir)
    logged = [json.loads(line) for line in (run_dir / "steps.jsonl").read_text().splitlines()]
    return {
        **{path.name: digest(path) for path in (run_dir / "checkpoints").glob("*.pt")},
        "steps": [{tag: row[tag] for tag in row if not tag.startswith("perf/")} for row in logged],
        "metrics": (run_dir / "metrics.csv").read_text(),
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The outcome of the run that nothing happened to, and how many seconds it took."""
    home = tmp_path_factory.mktemp("uninterrupted")
    began = time.monotonic()
    code, said = run(*EVERYTHING, "--run-dir", home / "run", fault=scaled, log=home / "said.txt")
    assert code == 0, said
    return outcome(home / "run"), time.monotonic() - began


def at_step(step):
    return lambda self, *_: self.step == step


# Where a process is killed, one after another: an epoch has five batches, a step two of them.
INSTANTS = {
    "before the first save": lambda: kill_at(Learner, "update", at_step(3)),
    "in the first save": lambda: kill_at(os, "fsync"),
    "inside the warm-up": lambda: kill_at(Learner, "update", at_step(7)),
    "in an evaluation": lambda: kill_at(Evaluator, "_logits"),
    "while the best is saved": lambda: kill_at(os, "replace", lambda old, new: str(new).endswith("best.pt")),
    "last step of the warm-up": lambda: kill_at(Learner, "update", at_step(11)),
    "first step after the warm-up": lambda: kill_at(Learner, "update", at_step(12)),
    "last batch of an epoch": lambda: kill_at(Learner, "update", at_step(14)),
    "first batch of an epoch": lambda: kill_at(Learner, "update", at_step(15)),
    "before a checkpoint has its name": lambda: kill_at(os, "replace", lambda old, new: str(new).endswith("16.pt")),
    "before a checkpoint is the last": lambda: kill_at(checkpoint, "link"),
    "in the middle of an epoch": lambda: kill_at(Learner, "update", at_step(21)),
    "before the status is told": lambda: kill_at(kept, "prune", lambda folder, *_: (folder / "step-24.pt").exists()),
}


def test_a_run_killed_at_every_instant_that_matters_ends_as_the_uninterrupted_one(uninterrupted):
    for name, instant in INSTANTS.items():
        code, said = run(*EVERYTHING, "--run-dir", "run", fault=lambda instant=instant: (scaled(), instant()))
        assert code == -9, f"{name}: {said}"
    code, said = run(*EVERYTHING, "--run-dir", "run", fault=scaled)
    assert code == 0, said
    assert outcome("run") == uninterrupted[0]


@pytest.mark.parametrize("kills", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_instants_ends_as_the_uninterrupted_one(uninterrupted, kills):
    expected, seconds = uninterrupted
    draw, left, finished = random.Random(kills), kills, 0
    while left or not finished:
        child = Child([*EVERYTHING, "--run-dir", "run"], "said.txt", scaled)
        if left and not child.ends_within(draw.uniform(0, seconds)):
            child.send(9)
        if (code := child.end()) == -9:
            left -= 1
            continue
        assert code == 0, child.said()
        assert outcome("run") == expected
        shutil.rmtree("run")
        finished += 1


def test_a_run_killed_when_it_has_saved_nothing_but_its_best_goes_on_from_there():
    often = [*TINY, "train.steps=6", "validate.every=2", "checkpoint.every=6", "--resume", "auto", "--quiet"]
    assert run(*often, "--run-dir", "whole")[0] == 0
    code, said = run(*often, "--run-dir", "run", fault=lambda: kill_at(Learner, "update", at_step(3)))
    assert code == -9, said
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["best.pt"]
    code, said = run(*often, "--run-dir", "run")
    assert code == 0, said
    assert "resume from run/checkpoints/best.pt at step 2" in Path("run/log.txt").read_text()
    assert outcome("run") == outcome("whole")


def test_a_run_goes_on_from_the_newest_valid_checkpoint_and_says_which_one_is_bad(uninterrupted):
    code, said = run(*EVERYTHING, "--run-dir", "run", fault=lambda: (scaled(), kill_at(Learner, "update", at_step(13))))
    assert code == -9, said
    last = Path("run/checkpoints/last.pt")
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.unlink()  # or the numbered one, which is the same file, would be damaged as well
    last.write_bytes(content)
    code, said = run(*EVERYTHING, "--run-dir", "run", fault=scaled)
    assert code == 0, said
    assert "last.pt: damaged" in Path("run/log.txt").read_text()
    assert outcome("run") == uninterrupted[0]
    for path in Path("run/checkpoints").glob("*.pt"):
        path.write_bytes(path.read_bytes()[:-1])
    code, said = run(*EVERYTHING, "--run-dir", "run")
    assert code == 2, "it never starts at 0 by itself"
    assert "last.pt: incomplete" in said
    assert "step-24.pt" in said
    assert "Traceback" not in said
