"""Processes that load or check data, and what a whole run says when one of them dies or hangs."""

import os
import signal
import time
from pathlib import Path

import pytest
from processes import TINY, run, wait_for, wrapped

from segtrain.data import feed
from segtrain.data.scenes import Scenes

pytestmark = pytest.mark.usefixtures("in_tmp")
RUN = [*TINY, "--run-dir", "run", "--quiet", "log.pictures=0"]


def in_a_worker(act):
    """A fault that lets `act` happen to sample 7, in any process but the one that trains."""

    def fault():
        main = os.getpid()
        wrapped(Scenes, "__getitem__", lambda _, index: os.getpid() != main and index == 7 and act())

    return fault


def die():
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_file_that_crashes_its_reader_is_named_by_the_check_of_all_data():
    code, said = run(*RUN, "--check-data", fault=in_a_worker(die))
    assert code == 2
    assert "while reading scenes/train/00007; being loaded were: " in said
    assert "Traceback" not in said
    assert not Path("run").exists()


def test_every_file_is_read_before_the_first_step_where_the_configuration_asks_for_it():
    code, said = run(*RUN, "data.verify=true", "data.train.length=200", fault=in_a_worker(die))
    assert code == 2
    assert "while reading scenes/train/00007" in said
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("act", "trouble"),
    [
        (die, "exited unexpectedly"),
        (lambda: os._exit(3), "exited unexpectedly"),
        (lambda: time.sleep(1000), "no batch came from the loader's processes for 2 s"),
    ],
    ids=["crash", "exit", "hang"],
)
def test_a_reader_that_dies_or_hangs_ends_the_run_with_the_names_of_what_it_was_reading(act, trouble):
    code, said = run(*RUN, "data.workers=2", "data.timeout=2", fault=in_a_worker(act))
    assert code == 2
    assert f"{trouble} while reading scenes/train/00007; being loaded were: " in said
    assert "Traceback" not in said


def begun_after_its_trainer_is_gone():
    """A worker that is still starting when the trainer is killed."""
    begin = feed._begin_worker

    def late(*arguments):
        trainer = os.getppid()
        Path("worker.txt").write_text(str(os.getpid()))
        os.kill(trainer, signal.SIGKILL)
        wait_for(lambda: os.getppid() != trainer)
        begin(*arguments)

    feed._begin_worker = late


def test_a_reader_that_starts_when_its_trainer_is_killed_ends_too():
    code, said = run(*RUN, "data.workers=1", fault=begun_after_its_trainer_is_gone)
    assert code == -9, said
    reader = Path("/proc", Path("worker.txt").read_text())
    wait_for(lambda: not reader.exists() or "State:\tZ" in (reader / "status").read_text())
