"""Runs in shards: each rank writes its own part of a checkpoint, and any number of ranks goes on from it."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parent))
from ranks import on_ranks
from states import digest, digest_of
from torchrun import TINY, torchrun

from segtrain import checkpoint, kept, shards
from segtrain.build import register_components
from segtrain.cli.runs import main as runs
from segtrain.cli.train import main
from segtrain.errors import CheckpointError
from segtrain.parallel import gathered
from segtrain.trained import load_trained

pytestmark = [pytest.mark.distributed, pytest.mark.usefixtures("in_tmp")]
INJECTOR = str(Path(__file__).parent / "injector.py")
SHARDED = [
    *[*TINY, "train.strategy=fsdp", "train.steps=12", "checkpoint.every=4", "validate.every=4", "log.every=4"],
    *["model.double=true", "model.dropout=0.2", "--quiet"],
]
CHECKPOINTS = Path("run/checkpoints")


def train(*arguments, world=2):
    return on_ranks(world, main, [*SHARDED, *map(str, arguments)], joined=False)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The checkpoints of a run on two ranks that nothing happened to, and their digests by name."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert train("--run-dir", run) == [0, 0]
    folder = run / "checkpoints"
    return folder, {path.name: digest(path) for path in folder.glob("*.pt")}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that has come to step 8 of 12, with the checkpoint of step 4 before."""
    run = tmp_path_factory.mktemp("interrupted") / "run"
    for resume in ([], ["--resume", "auto"]):
        assert train("--run-dir", run, "--profile", "4", *resume) == [0, 0]
    return run


@pytest.fixture
def at_8(interrupted):
    """The checkpoints of a copy of it, for each test its own."""
    shutil.copytree(interrupted, "run")
    (CHECKPOINTS / "last.pt").unlink()
    checkpoint.link(CHECKPOINTS / "step-8.shards.pt", CHECKPOINTS / "last.pt")
    return CHECKPOINTS


def test_a_resumed_run_ends_as_the_uninterrupted_one(uninterrupted, at_8):
    assert {path.name for path in at_8.glob("step-*")} == {
        f"step-{step}.shards{end}" for step in (4, 8) for end in ("", ".pt")
    }
    assert train("--run-dir", "run", "--resume", "auto") == [0, 0]
    assert digest(at_8 / "last.pt") == uninterrupted[1]["last.pt"]
    assert {path.name for path in at_8.glob("step-*")} == {
        f"step-{step}.shards{end}" for step in (8, 12) for end in ("", ".pt")
    }, "two are kept, with their shards"


def test_each_rank_writes_its_own_part_and_none_of_the_others(uninterrupted):
    folder = uninterrupted[0] / "step-12.shards"
    rest = checkpoint.load(uninterrupted[0] / "last.pt")
    assert rest["shards"]["files"].keys() == {path.name for path in folder.iterdir()}
    whole = shards.load(uninterrupted[0] / "last.pt")
    sizes = []
    for path in folder.iterdir():
        with safe_open(path, "pt") as part:
            sizes.append({name: part.get_slice(name).get_shape() for name in part.keys()})  # noqa: SIM118
    assert len(sizes) == 2
    names = {name for part in sizes for name in part}
    moments = {name for name in names if name.startswith("/optimizer/state/")}
    assert len(moments) == 2 * sum(name.startswith("/model/") for name in names)
    for name in names:
        tensor = whole
        for key in name.split("/")[1:]:
            tensor = tensor[key]
        rows = [part[name][0] for part in sizes if name in part]
        assert sum(rows) == len(tensor)
        assert len(tensor) < 2 or max(rows) < len(tensor)
    assert all(value is None for state in (rest["model"], rest["ema"]) for value in state.values())


def gathered_for(arguments):
    """The elements of each tensor that was gathered while this rank saved, by the name of the checkpoint."""
    from segtrain.cli.train.job import Job

    save, full_tensor, seen = Job.save, DTensor.full_tensor, {}

    def saving(self, name, state):
        sizes = seen.setdefault(name, [])

        def noting(tensor, **options):
            sizes.append(tensor.numel())
            return full_tensor(tensor, **options)

        DTensor.full_tensor = noting
        save(self, name, state)
        DTensor.full_tensor = full_tensor
        seen["bytes"] = checkpoint.size_of(state["model"])

    Job.save = saving
    assert main(arguments) == 0
    return seen


def test_nothing_is_gathered_for_the_last_and_all_for_the_best():
    for seen in on_ranks(2, gathered_for, [*SHARDED, "--run-dir", "run", "train.steps=4"], joined=False):
        assert seen["last"] == []
        assert len(seen["best"]) > 4
    best = checkpoint.load(CHECKPOINTS / "best.pt")
    last = shards.load(CHECKPOINTS / "last.pt")
    assert digests(best) == digests(last)
    assert seen["bytes"] == checkpoint.size_of(best["model"]), "room is looked for on the disk for all of it"


def resumed(arguments):
    """The digests of what a run has loaded, before any step."""
    from segtrain.trainer import Trainer

    seen = []

    def instead_of_training(self):
        state = gathered(self.state_dict())
        seen.extend(digests(state))
        return self.best

    Trainer.run = instead_of_training
    assert main(arguments) == 0
    return seen


def digests(state):
    """Of what lies in shards; the learning rate of a group is set by the next step."""
    return [digest_of(part) for part in (state["model"], state["ema"], state["optimizer"]["state"])]


@pytest.mark.parametrize(("world", "strategy"), [(1, "fsdp"), (4, "fsdp"), (2, "ddp")])
def test_other_numbers_of_ranks_go_on_from_the_same_parameters(world, strategy, at_8):
    go_on = [*SHARDED, "--run-dir", "run", "--resume", "auto", f"train.strategy={strategy}"]
    go_on += ["--override-resume", "ranks", "--override-resume", "train.strategy"]
    expected = checkpoint.load(at_8 / "best.pt")  # the same step, whole
    assert expected["step"] == 8
    assert on_ranks(world, resumed, go_on, joined=False)[0] == digests(expected)
    assert on_ranks(world, main, go_on, joined=False) == [0] * world
    assert json.loads(Path("run/status.json").read_text())["step"] == 12
    assert shards.load(at_8 / "last.pt")["step"] == 12


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("harm", "words"), [(damage, "damaged"), (Path.unlink, "cannot be read")])
def test_a_bad_shard_is_told_by_its_name_and_the_older_checkpoint_taken(harm, words, uninterrupted, at_8):
    bad = sorted((at_8 / "step-8.shards").iterdir())[1]
    harm(bad)
    assert train("--run-dir", "run", "--resume", "auto") == [0, 0]
    said = Path("run/log.txt").read_text()
    assert f"{bad}: {words}" in said
    assert "resume from run/checkpoints/step-4.shards.pt at step 4" in said
    assert digest(at_8 / "last.pt") == uninterrupted[1]["last.pt"]


def test_what_lies_among_shards_or_only_looks_like_one_is_refused(at_8):
    file = at_8 / "step-8.shards.pt"
    state = checkpoint.load(file)
    one = sorted((at_8 / "step-8.shards").iterdir())[0]
    shards.verify(file, state)
    (one.parent / "mine.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"mine\.safetensors: not a shard of run/checkpoints/step-8\.shards\.pt"):
        shards.verify(file, state)
    (one.parent / "mine.safetensors").unlink()
    one.write_bytes(b"no tensors")
    state["shards"]["files"][one.name] = hashlib.sha256(b"no tensors").hexdigest()
    checkpoint.save(file, state)
    with pytest.raises(CheckpointError, match=r"step-8\.shards\.pt: its shards cannot be read"):
        shards.load(file)
    checkpoint.save(file, {**state, "shards": ["elsewhere"]})
    with pytest.raises(CheckpointError, match="does not say which shards belong to it"):
        shards.load(file)


@pytest.mark.slow
def test_with_every_shard_bad_a_run_does_not_begin_anew(at_8, capfd):
    for path in at_8.glob("*.shards/*"):
        damage(path)
    (at_8 / "best.pt").unlink(missing_ok=True)
    assert train("--run-dir", "run", "--resume", "auto") == [2, 2]
    assert "step-4.shards/shard-00001" in capfd.readouterr().err


# which rank is killed where in the save of step 8
INSTANTS = ["1:write a shard", "0:name the folder", "0:write the rest", "0:make it the last"]


@pytest.mark.slow
@pytest.mark.parametrize("instant", INSTANTS)
def test_a_kill_in_a_save_leaves_a_run_that_goes_on(instant, uninterrupted):
    rank, what = instant.split(":")
    env = {"FAULT": f"{what}:{rank}:8"}
    result = torchrun(*SHARDED, "--run-dir", "run", script=INJECTOR, restarts=1, env=env)
    assert result.returncode == 0, result.stderr
    assert Path("fault").exists()
    assert "resume from run/checkpoints/last.pt at step 4" in Path("run/log.txt").read_text()
    assert digest(CHECKPOINTS / "last.pt") == uninterrupted[1]["last.pt"]
    assert {path.name for path in CHECKPOINTS.iterdir()} == {
        *("best.pt", "last.pt", "step-8.shards", "step-8.shards.pt", "step-12.shards", "step-12.shards.pt")
    }, "nothing is left of the save that was killed"


def full_disk(arguments):
    """A disk without room for the part of rank 1."""
    if os.environ["RANK"] == "1":
        import errno

        from torch.distributed.checkpoint import HuggingFaceStorageWriter

        def fail(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        HuggingFaceStorageWriter.write_data = fail
    return main(arguments)


@pytest.mark.slow
def test_a_full_disk_of_one_rank_ends_all_with_74_and_leaves_the_last_checkpoint(at_8, capfd):
    before = digest(at_8 / "last.pt")
    go_on = [*SHARDED, "--run-dir", "run", "--resume", "auto"]
    assert on_ranks(2, full_disk, go_on, joined=False) == [74, 74]
    assert "No space left on device" in capfd.readouterr().err
    assert digest(at_8 / "last.pt") == before
    assert not list(at_8.glob("*.tmp"))


def test_one_process_uses_a_run_that_has_nothing_whole(at_8):
    (at_8 / "best.pt").unlink(missing_ok=True)
    register_components(["tiny_components"])
    trained = load_trained(Path("run"), torch.device("cpu"), weights="raw")
    assert trained.step == 8
    expected = shards.load(at_8 / "last.pt")["model"]
    assert all(torch.equal(value, expected[name]) for name, value in trained.model.state_dict().items())
    with pytest.raises(CheckpointError, match=r"its weights lie in shards beside it; give the best\.pt"):
        checkpoint.read_weights(at_8 / "last.pt")


def test_cleaning_deletes_shards_with_their_checkpoint_and_keeps_those_of_the_last(at_8, capsys):
    assert runs(["clean", "run", "--keep", "last", "--yes"]) == 0
    assert "step-4.shards" in capsys.readouterr().out
    names = {path.name for path in at_8.iterdir()}
    assert names == {"last.pt", "step-8.shards", "step-8.shards.pt"}
    assert kept.newest_valid(at_8).path.name == "last.pt"
