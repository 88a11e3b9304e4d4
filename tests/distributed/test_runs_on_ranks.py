"""Whole runs on two ranks: what they leave is what one process leaves, also after a stop."""

import csv
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
from ranks import on_ranks
from states import digest
from torchrun import TINY, wait_for

from segtrain import shards
from segtrain.build import build, register_components
from segtrain.checkpoint import load
from segtrain.cli.train import main
from segtrain.config import load as load_config

pytestmark = [pytest.mark.distributed, pytest.mark.usefixtures("in_tmp")]


def train(*arguments):
    return on_ranks(2, main, [*TINY, *map(str, arguments)], joined=False)


def table(run):
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [{tag: float(text or "nan") for tag, text in row.items()} for row in rows]


def steps(run):
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


def test_two_ranks_report_what_one_process_with_their_global_batch_reports():
    exact = ["model.double=true", "model.dropout=0"]
    assert main([*TINY, "--run-dir", "one", "data.batch_size=4", *exact]) == 0
    assert train("--run-dir", "two", *exact) == [0, 0]
    alone, together = table(Path("one")), table(Path("two"))
    assert len(alone) == len(together) == 2
    for theirs, ours in zip(together, alone, strict=True):
        scores = [tag for tag in ours if tag.startswith("val/")]
        assert {tag: theirs[tag] for tag in scores} == pytest.approx(
            {tag: ours[tag] for tag in scores}, rel=1e-9, nan_ok=True
        )
    for theirs, ours in zip(steps(Path("two")), steps(Path("one")), strict=True):
        for tag in ("train/loss", "train/loss_all", "train/grad_norm", "mining/threshold", "mining/top_p_effective"):
            assert theirs[tag] == pytest.approx(ours[tag], rel=1e-9), tag
    one, two = (load(f"{run}/checkpoints/last.pt")["model"] for run in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize(("world", "length", "accumulate"), [(4, 1, 3), (4, 3, 1), (2, 5, 3)])
def test_ranks_with_few_images_or_none_end_with_the_model_of_one_process(world, length, accumulate, strategy):
    """4 images make a global batch; ranks without one see a sample that is ignored."""
    few = [f"data.train.length={length}", f"train.accumulate={accumulate}", "model.double=true", "model.dropout=0"]
    assert main([*TINY, "--run-dir", "one", "data.batch_size=4", *few]) == 0
    several = [*TINY, "--run-dir", "several", f"data.batch_size={4 // world}", *few, f"train.strategy={strategy}"]
    assert on_ranks(world, main, several, joined=False) == [0] * world
    one, theirs = (shards.load(Path(run, "checkpoints/last.pt"))["model"] for run in ("one", "several"))
    for name in one:
        torch.testing.assert_close(theirs[name], one[name], rtol=0, atol=1e-12)
    for row, expected in zip(table(Path("several")), table(Path("one")), strict=True):
        assert row["val/miou"] == pytest.approx(expected["val/miou"], rel=1e-9)


def test_ranks_agree_on_one_directory_and_one_of_them_writes_it():
    assert train("train.steps=2", "--quiet") == [0, 0]
    (run,) = Path("runs/tiny").iterdir()
    assert json.loads((run / "env.json").read_text())["ranks"] == 2
    assert [row["step"] for row in table(run)] == [2]
    assert len(list((run / "tb").iterdir())) == 1


def stop_this_rank_after_a_step(arguments):
    """SIGTERM to rank 1 alone, at some step."""
    if os.environ["RANK"] == "1":
        steps = Path("half/steps.jsonl")

        def watch():
            wait_for(lambda: steps.exists() and steps.stat().st_size)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()
    return main(arguments)


def test_a_signal_to_one_rank_stops_all_at_one_step_and_the_resumed_run_ends_as_the_uninterrupted_one():
    run = [*TINY, "train.steps=60", "log.every=1", "validate.every=25", "checkpoint.every=1000"]
    assert on_ranks(2, main, [*run, "--run-dir", "whole"], joined=False) == [0, 0]
    assert on_ranks(2, stop_this_rank_after_a_step, [*run, "--run-dir", "half"], joined=False) == [143, 143]
    status = json.loads(Path("half/status.json").read_text())
    assert (status["status"], status["step"]) == ("interrupted", load("half/checkpoints/last.pt")["step"])
    assert 0 < status["step"] < 60
    assert on_ranks(2, main, [*run, "--run-dir", "half", "--resume", "auto"], joined=False) == [0, 0]
    assert digest("half/checkpoints/last.pt") == digest("whole/checkpoints/last.pt")
    first, second = load("whole/checkpoints/last.pt")["rng"]
    assert not torch.equal(first["torch"], second["torch"]), "ranks draw numbers of their own"


def test_another_number_of_ranks_is_another_run(capfd):
    assert train("--run-dir", "run", "train.steps=4") == [0, 0]
    assert main([*TINY, "--run-dir", "run", "--resume", "auto"]) == 2
    assert "cannot resume with another ranks: 2 → 1" in capfd.readouterr().err
    assert main([*TINY, "--run-dir", "run", "--resume", "auto", "--override-resume", "ranks"]) == 0


def collectives_of(arguments):
    """What this rank asks of the others in a run: which call, of which shape. torch's own check crashes DDP on CPUs."""
    seen = []

    def noted(name, call):
        def noting(*values, **options):
            tensor = values[0] if values else None
            seen.append((name, str(getattr(tensor, "shape", "")), str(getattr(tensor, "dtype", ""))))
            return call(*values, **options)

        return noting

    for name in ("all_reduce", "broadcast", "broadcast_object_list", "all_gather_object", "new_group"):
        setattr(dist, name, noted(name, getattr(dist, name)))
    assert main(arguments) == 0
    return seen


def test_all_ranks_call_the_same_collectives_in_training_evaluation_and_saving():
    uneven = ["train.accumulate=2", "data.train.length=3", "data.val.length=1", "model.batch_norm=true"]
    first, second = on_ranks(2, collectives_of, [*TINY, "--run-dir", "run", *uneven], joined=False)
    assert first == second
    assert {name for name, _, _ in first} >= {"all_reduce", "broadcast", "all_gather_object"}


def test_what_is_judged_with_batch_norms_is_what_is_saved():
    """Ranks see different images, so their running means differ; those of rank 0 are judged and saved."""
    arguments = ["--run-dir", "run", "model.batch_norm=true", "validate.weights=raw", "train.ema=null", "train.steps=4"]
    assert train(*arguments) == [0, 0]
    assert "2 images each, on every rank its own" in Path("run/log.txt").read_text()
    register_components(["tiny_components"])
    config, source = load_config(Path("run/config.yaml"), [])
    built = build(config, source, torch.device("cpu"))
    built.learner.model.load_state_dict(load("run/checkpoints/best.pt")["model"])
    report = built.evaluator(built.learner.model, 4)
    assert table(Path("run"))[-1]["val/miou"] == pytest.approx(report.scalars["val/miou"], rel=1e-6)


def test_shards_leave_whole_checkpoints_and_the_resumed_run_ends_as_the_uninterrupted_one():
    exact = ["model.double=true", "model.dropout=0"]
    assert main([*TINY, "--run-dir", "one", "data.batch_size=4", *exact]) == 0
    assert train("--run-dir", "whole", *exact, "train.strategy=fsdp") == [0, 0]
    assert train("--run-dir", "half", *exact, "train.strategy=fsdp", "--profile", "4") == [0, 0]
    assert train("--run-dir", "half", *exact, "train.strategy=fsdp", "--resume", "auto") == [0, 0]
    assert digest("half/checkpoints/last.pt") == digest("whole/checkpoints/last.pt")
    one, theirs = (shards.load(Path(run, "checkpoints/last.pt")) for run in ("one", "whole"))
    for part in ("model", "ema"):
        for name in one[part]:
            torch.testing.assert_close(theirs[part][name], one[part][name], rtol=0, atol=1e-12)
    for row, expected in zip(table(Path("whole")), table(Path("one")), strict=True):
        assert row["val/miou"] == pytest.approx(expected["val/miou"], rel=1e-9)
    assert main([*TINY, "--run-dir", "next", *exact, "--init", "whole/checkpoints/best.pt"]) == 0


def test_a_dry_run_is_told_once(capfd):
    assert train("--dry-run") == [0, 0]
    assert capfd.readouterr().out.count("one batch forward and backward") == 1
