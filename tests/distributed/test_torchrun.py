"""The command under torchrun: what a user sees when all is well, and when one rank fails."""

import json
import random
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from ranks import on_ranks
from states import digest
from torchrun import TINY, start, torchrun, wait_for

from segtrain.cli.train import main

pytestmark = [pytest.mark.distributed, pytest.mark.usefixtures("in_tmp")]
INJECTOR = str(Path(__file__).parent / "injector.py")
RUN = [*TINY, "train.steps=30", "checkpoint.every=5", "validate.every=15", "log.every=5", "--quiet"]


def processes_of(mark):
    """Processes that carry `mark` in their environment; loader workers inherit it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The digest of the same run on two ranks that nothing happened to."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert on_ranks(2, main, [*RUN, "--run-dir", str(run)], joined=False) == [0, 0]
    return digest(run / "checkpoints" / "last.pt")


def killed_and_restarted(step, *arguments):
    return torchrun(*RUN, *arguments, script=INJECTOR, restarts=2, env={"FAULT": f"kill:1:{step}"})


def test_a_killed_rank_is_restarted_and_the_run_ends_as_if_nothing_had_happened(uninterrupted):
    result = killed_and_restarted(17)
    assert result.returncode == 0, result.stderr
    (run,) = Path("runs/tiny").iterdir()
    assert "resume from" in (run / "log.txt").read_text()
    assert digest(run / "checkpoints" / "last.pt") == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("step", [*random.Random(0).sample(range(30), 9), 0])
def test_restarts_succeed_ten_times_of_ten(uninterrupted, step):
    result = killed_and_restarted(step, "--run-dir", "run")
    assert result.returncode == 0, result.stderr
    assert digest("run/checkpoints/last.pt") == uninterrupted


FAULTS = {"step": 1, "load": 1, "evaluate": 1, "save": 0}


@pytest.mark.parametrize(
    "fault", ["step", *(pytest.param(f, marks=pytest.mark.slow) for f in ("load", "evaluate", "save"))]
)
def test_a_rank_that_raises_ends_the_job_with_its_own_traceback_and_leaves_no_process(fault, in_tmp):
    rank = FAULTS[fault]
    env = {"FAULT": f"{fault}:{rank}:7", "MARK": in_tmp.name}
    result = torchrun(*RUN, "--run-dir", "run", "data.workers=1", script=INJECTOR, env=env)
    assert result.returncode != 0
    _, _, root_cause = result.stderr.partition("Root Cause (first observed failure)")
    assert f"rank      : {rank} " in root_cause
    assert "a fault in" in root_cause
    other = 1 - rank
    assert f"[rank{other}]: Traceback" not in result.stderr, "the other rank only says that it lost this one"
    wait_for(lambda: not processes_of(in_tmp.name))


@pytest.mark.slow
def test_a_killed_rank_ends_the_job(in_tmp):
    result = torchrun(*RUN, "--run-dir", "run", script=INJECTOR, env={"FAULT": "kill:1:7", "MARK": in_tmp.name})
    assert result.returncode != 0
    assert "SIGKILL" in result.stderr
    wait_for(lambda: not processes_of(in_tmp.name))


@pytest.mark.slow
def test_a_mistake_of_all_ranks_is_told_once():
    result = torchrun(*RUN, "criterion.top_pp=0.1")
    assert result.returncode != 0
    told = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(told) == 1, result.stderr
    assert "did you mean 'top_p'?" in told[0]


@pytest.mark.slow
def test_torchrun_passes_a_stop_on_and_the_ranks_save(in_tmp):
    slow = ["train.steps=100000", "checkpoint.every=100000", "validate.every=100000", "log.every=1000"]
    process = start(*TINY, *slow, "--run-dir", "run", "--quiet", env={"MARK": in_tmp.name})
    wait_for(lambda: Path("run/status.json").exists())
    time.sleep(3)  # some steps
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    status = json.loads(Path("run/status.json").read_text())
    assert (status["status"], status["step"] > 0) == ("interrupted", True), errors
    wait_for(lambda: not processes_of(in_tmp.name))
