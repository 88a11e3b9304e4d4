"""The command under torchrun: what a user sees when all is well, and when one rank fails."""

import json
import random
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from ranks import free_port, on_ranks
from states import digest
from torchrun import TINY, processes_of_jobs, start, torchrun, wait_for

from segtrain.cli.train import main

pytestmark = [pytest.mark.distributed, pytest.mark.usefixtures("in_tmp")]
INJECTOR = str(Path(__file__).parent / "injector.py")
RUN = [*TINY, "train.steps=30", "checkpoint.every=5", "validate.every=15", "log.every=5", "--quiet"]


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
def test_a_job_that_torchrun_gave_no_name_goes_on_with_its_own_run_too(uninterrupted):
    meeting = ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    result = torchrun(*RUN, script=INJECTOR, restarts=1, options=meeting, env={"FAULT": "kill:1:17"})
    assert result.returncode == 0, result.stderr
    (run,) = Path("runs/tiny").iterdir()
    assert digest(run / "checkpoints" / "last.pt") == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("step", [*random.Random(0).sample(range(30), 9), 0])
def test_restarts_succeed_ten_times_of_ten(uninterrupted, step):
    result = killed_and_restarted(step, "--run-dir", "run")
    assert result.returncode == 0, result.stderr
    assert digest("run/checkpoints/last.pt") == uninterrupted


def failed(fault, rank, *arguments, **options):
    """A job that ends by a fault of one rank, soon after it: no rank waits for its time-out, and none is left."""
    result = torchrun(
        *RUN, "--run-dir", "run", *arguments, script=INJECTOR, env={"FAULT": f"{fault}:{rank}:7"}, **options
    )
    assert result.returncode != 0
    # 15 s are promised, of a machine with nothing else to do; a rank that waits for another gives up after 600 s
    assert time.time() - Path("fault").stat().st_mtime < 60
    wait_for(lambda: not processes_of_jobs())
    return result


FAULTS = {"step": 1, "build": 1, "check": 0, "load": 1, "evaluate": 1, "save": 0}


@pytest.mark.parametrize("fault", [f if f == "step" else pytest.param(f, marks=pytest.mark.slow) for f in FAULTS])
def test_a_rank_that_raises_ends_the_job_soon_with_its_own_traceback_and_leaves_no_process(fault):
    rank = FAULTS[fault]
    result = failed(fault, rank, "data.workers=1")
    _, _, root_cause = result.stderr.partition("Root Cause (first observed failure)")
    assert f"rank      : {rank} " in root_cause
    assert "a fault in" in root_cause
    other = 1 - rank
    assert f"[rank{other}]: Traceback" not in result.stderr, "the other rank only says that it lost this one"


@pytest.mark.slow
def test_a_killed_rank_ends_the_job():
    assert "SIGKILL" in failed("kill", 1).stderr


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_job_after_the_time_out():
    result = failed("hang", 1, "train.process_group_timeout=5", options=["--shutdown-timeout=5"])
    assert "rank 0 ends: it lost another one" in result.stderr


@pytest.mark.slow
def test_a_mistake_of_all_ranks_is_told_once():
    result = torchrun(*RUN, "criterion.top_pp=0.1")
    assert result.returncode != 0
    told = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(told) == 1, result.stderr
    assert "did you mean 'top_p'?" in told[0]


@pytest.mark.slow
def test_torchrun_passes_a_stop_on_and_the_ranks_save():
    slow = ["train.steps=100000", "checkpoint.every=100000", "validate.every=100000", "log.every=1000"]
    process = start(*TINY, *slow, "--run-dir", "run", "--quiet")
    wait_for(lambda: Path("run/status.json").exists())
    time.sleep(3)  # some steps
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    status = json.loads(Path("run/status.json").read_text())
    assert (status["status"], status["step"] > 0) == ("interrupted", True), errors
    wait_for(lambda: not processes_of_jobs())
