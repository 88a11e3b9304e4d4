import pytest

from segtrain.checkpoint import save
from segtrain.errors import CheckpointError, ConfigError
from segtrain.resume import changes, choose
from segtrain.run import RunDirectory

THEN = {
    "train": {"steps": 400, "amp": "off"},
    "criterion": {"name": "bootstrapped_ce", "top_p": 0.25},
    "data": {"workers": 2},
}


def changed(**sections):
    return {name: {**THEN[name], **sections.get(name, {})} for name in THEN}


@pytest.fixture
def left(tmp_path):
    """A run that was left at step 3."""
    run = RunDirectory(tmp_path / "street" / "20260101-000000")
    run.start("")
    run.write_status("interrupted", step=3)
    save(run.checkpoints / "last.pt", {"step": 3})
    return run


def test_a_longer_run_and_other_workers_are_told_and_allowed():
    lines = changes(THEN, changed(train={"steps": 800}, data={"workers": 0}), [])
    assert lines == ["data.workers: 2 → 0", "train.steps: 400 → 800"]


def test_another_criterion_is_refused_with_old_and_new_value_and_the_way_out():
    with pytest.raises(ConfigError) as error:
        changes(THEN, changed(criterion={"top_p": 0.1}, train={"amp": "bf16"}), [])
    assert error.value.messages == (
        "cannot resume with another criterion.top_p: 0.25 → 0.1",
        "cannot resume with another train.amp: off → bf16",
        "change it back, start a new run from these weights with --init, or insist with "
        "--override-resume criterion.top_p --override-resume train.amp",
    )


def test_an_insisted_change_is_told():
    assert changes(THEN, changed(criterion={"top_p": 0.1}), ["criterion.top_p"]) == ["criterion.top_p: 0.25 → 0.1"]


def test_auto_goes_on_with_the_newest_run_of_the_name(left, tmp_path):
    start = choose("auto", None, tmp_path, "street")
    assert (start.run.path, start.state) == (left.path, {"step": 3})


def test_auto_starts_anew_where_there_is_nothing(tmp_path):
    assert choose("auto", None, tmp_path, "street").state is None
    assert choose("auto", tmp_path / "here", tmp_path, "street").run.path == tmp_path / "here"


def test_a_path_means_that_run_or_that_checkpoint(left, tmp_path):
    for path in (left.path, left.checkpoints / "last.pt"):
        start = choose(str(path), None, tmp_path, "other")
        assert (start.run.path, start.state["step"]) == (left.path, 3)


def test_a_checkpoint_that_lies_alone_goes_on_in_a_new_run(tmp_path):
    save(tmp_path / "alone.pt", {"step": 3})
    start = choose(str(tmp_path / "alone.pt"), None, tmp_path / "runs", "street")
    assert start.state == {"step": 3}
    assert start.run.path.parent == tmp_path / "runs" / "street"


def test_a_run_is_not_continued_in_the_directory_of_another(left, tmp_path):
    used = RunDirectory(tmp_path / "used")
    used.start("")
    with pytest.raises(ConfigError, match="used is not empty"):
        choose(str(left.checkpoints / "last.pt"), used.path, tmp_path, "street")
    with pytest.raises(ConfigError, match="used is not empty"):
        choose(str(left.path), used.path, tmp_path, "street")
    assert choose(str(left.path), left.path, tmp_path, "street").run.path == left.path


def test_a_path_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"nothing\.pt: does not exist; give a run directory, a checkpoint, or auto"
    ):
        choose(str(tmp_path / "nothing.pt"), None, tmp_path, "street")


def test_without_resume_a_used_directory_is_refused(left, tmp_path):
    with pytest.raises(ConfigError, match=r"is not empty \(a run that is interrupted at step 3\)"):
        choose(None, left.path, tmp_path, "street")


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(left, tmp_path):
    save(left.checkpoints / "step-2.pt", {"step": 2})
    (left.checkpoints / "last.pt").write_bytes(b"half a file")
    start = choose("auto", None, tmp_path, "street")
    assert start.state == {"step": 2}
    assert len(start.warnings) == 1
    assert "last.pt" in start.warnings[0]


def test_with_nothing_but_damaged_checkpoints_the_run_does_not_start_at_0(left, tmp_path):
    (left.checkpoints / "last.pt").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        choose("auto", None, tmp_path, "street")
