import json
import os

import pytest

from segtrain.errors import ConfigError
from segtrain.run import RunDirectory, latest_run, new_run


@pytest.fixture
def started(tmp_path):
    run = new_run(tmp_path, "street")
    run.start("seed: 0\n")
    return run


def test_a_new_run_lies_below_its_root_and_name(started, tmp_path):
    assert started.path.parent == tmp_path / "street"
    assert (started.path / "config.yaml").read_text() == "seed: 0\n"
    environment = json.loads((started.path / "env.json").read_text())
    assert "torch" in environment
    assert all(f"{name} " in environment["packages"] for name in ("timm", "segmentation-models-pytorch", "numpy"))


def test_two_runs_of_one_second_do_not_share_a_directory(started, tmp_path):
    assert new_run(tmp_path, "street").path != started.path


@pytest.mark.parametrize("name", ["", "../elsewhere", "/tmp/elsewhere", "a/../../b"])
def test_a_name_that_leaves_the_root_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="is not a name"):
        new_run(tmp_path, name)


def test_the_status_is_what_was_last_written(started):
    started.write_status("running", step=3)
    started.write_status("finished", step=4)
    status = started.read_status()
    assert (status["status"], status["step"]) == ("finished", 4)


def test_a_used_directory_is_refused_with_what_is_in_it(started):
    started.write_status("finished", step=400)
    with pytest.raises(ConfigError, match=r"is not empty \(a run that is finished at step 400\)\. Use --resume auto"):
        started.refuse_if_used()


def test_an_empty_directory_is_not_a_used_one(tmp_path):
    RunDirectory(tmp_path).refuse_if_used()
    RunDirectory(tmp_path / "new").refuse_if_used()


def test_a_directory_is_written_by_one_process_at_a_time(started):
    def by_another_process():
        child = os.fork()
        if child == 0:
            try:
                RunDirectory(started.path).start("")
            except ConfigError as error:
                os._exit(7 if "is being written by another process" in str(error) else 1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert by_another_process() == 7


def test_the_latest_run_of_a_name_is_found(started, tmp_path):
    started.write_status("running")
    later = RunDirectory(tmp_path / "street" / "29991231-000000")
    later.start("")
    later.write_status("running")
    assert latest_run(tmp_path, "street").path == later.path
    assert latest_run(tmp_path, "other") is None


def test_a_run_that_was_killed_is_not_called_running(in_tmp):
    run = RunDirectory(in_tmp / "killed")
    run.start("")
    run.write_status("running", step=3)
    with pytest.raises(ConfigError, match="a run that is dead, ended without a word, at step 3"):
        run.refuse_if_used()
