import os

import pytest

from segtrain import checkpoint
from segtrain.errors import CheckpointError
from segtrain.kept import newest_valid, prune, remove_temporaries


def a_state(step=7):
    return {"step": step, "names": ["a", ""]}


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_resume_takes_last_and_falls_back_to_the_newest_valid_step(tmp_path):
    for step in (5, 20, 100):
        checkpoint.save(tmp_path / f"step-{step}.pt", a_state(step))
    checkpoint.save(tmp_path / "last.pt", a_state(120))
    found = newest_valid(tmp_path)
    assert (found.path.name, found.state["step"], found.damaged) == ("last.pt", 120, ())
    damage(tmp_path / "last.pt")
    damage(tmp_path / "step-100.pt")
    found = newest_valid(tmp_path)
    assert (found.path.name, found.state["step"]) == ("step-20.pt", 20)
    assert [str(error).split(":")[0] for error in found.damaged] == [
        str(tmp_path / "last.pt"),
        str(tmp_path / "step-100.pt"),
    ]


def test_with_no_valid_checkpoint_every_damaged_one_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint here; expected last\.pt"):
        newest_valid(tmp_path)
    for name in ("last.pt", "step-3.pt"):
        checkpoint.save(tmp_path / name, a_state())
        damage(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"last\.pt: damaged(.|\n)*step-3\.pt: damaged"):
        newest_valid(tmp_path)


def test_pruning_counts_valid_checkpoints_and_touches_nothing_else(tmp_path):
    for step in (1, 2, 3, 20, 100):
        checkpoint.save(tmp_path / f"step-{step}.pt", a_state(step))
    for name in ("last.pt", "best.pt"):
        checkpoint.save(tmp_path / name, a_state())
    for name in ("step-5.bak", "mystep-5.pt", "step-x.pt", "notes.txt", "notes.tmp", "step-4.pt.tmp"):
        (tmp_path / name).write_text("mine")
    damage(tmp_path / "step-20.pt")
    assert prune(tmp_path, keep=2, step=100) == []
    steps = sorted(path.name for path in tmp_path.glob("step-*.pt"))
    assert steps == ["step-100.pt", "step-20.pt", "step-3.pt", "step-x.pt"]
    remove_temporaries(tmp_path)
    assert {"last.pt", "best.pt", "step-5.bak", "mystep-5.pt", "notes.txt", "notes.tmp"} <= set(os.listdir(tmp_path))
    assert not (tmp_path / "step-4.pt.tmp").exists()


def test_pruning_after_a_step_back_keeps_where_the_run_is(tmp_path):
    for step in (100, 200, 300, 800, 900):
        checkpoint.save(tmp_path / f"step-{step}.pt", a_state(step))
    assert prune(tmp_path, keep=2, step=300) == []
    assert {path.name for path in tmp_path.iterdir()} == {f"step-{step}.pt" for step in (300, 800, 900)}


def test_a_delete_that_fails_is_reported_and_stops_nothing(tmp_path):
    checkpoint.save(tmp_path / "step-3.pt", a_state())
    checkpoint.save(tmp_path / "step-1.pt", a_state())
    (tmp_path / "step-2.pt").mkdir()  # unlink fails
    (problem,) = prune(tmp_path, keep=1, step=3)
    assert problem.startswith(f"{tmp_path / 'step-2.pt'}: cannot be deleted")
    assert not (tmp_path / "step-1.pt").exists()


def test_the_best_is_gone_on_from_where_there_is_nothing_newer(tmp_path):
    checkpoint.save(tmp_path / "best.pt", a_state(5))
    assert newest_valid(tmp_path).state["step"] == 5
    checkpoint.save(tmp_path / "step-3.pt", a_state(3))
    assert newest_valid(tmp_path).path.name == "step-3.pt"
    damage(tmp_path / "step-3.pt")
    found = newest_valid(tmp_path)
    assert (found.path.name, len(found.damaged)) == ("best.pt", 1)
