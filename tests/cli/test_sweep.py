"""A sweep as a user meets it: real runs in processes of their own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segtrain.build import register_components
from segtrain.cli.sweep import main
from segtrain.cli.sweep.sweeping import Sweep, planned
from segtrain.cli.train import main as train
from segtrain.config import load
from segtrain.run import RunDirectory

ROOT = Path(__file__).parents[2]
SWEEP = f"""
config: {ROOT}/tests/tiny.yaml
overrides: [train.steps=2, validate.every=2, checkpoint.every=2, log.pictures=0, "criterion.warmup=0"]
seeds: [0, 1]
variants:
  mined: []
  plain: ["criterion={{name: cross_entropy}}"]
"""
FLAGS = ["--import", "tiny_components", "--config", "sweep.yaml", "--out", "out", "--device", "cpu"]


@pytest.fixture
def sweep(in_tmp, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (in_tmp / "sweep.yaml").write_text(SWEEP)
    return in_tmp


def test_runs_are_compared_kept_and_a_failed_one_does_not_stop_the_rest(sweep, capsys):
    bad = "data.train={name: scenes, split: train, length: 10, size: [24, 32], missing: 1}"
    assert main([*FLAGS, f"variants.bad=['{bad}']"]) == 2, "a mistake in a variant is told before anything is trained"
    assert "variant 'bad'" in capsys.readouterr().err
    assert not (sweep / "out").exists()

    (sweep / "out" / "plain").mkdir(parents=True)
    (sweep / "out" / "plain" / "seed-0").write_text("in the way")
    assert main(FLAGS) == 1
    told = capsys.readouterr().out
    assert "FAILED plain · seed 0: exit code 2" in told
    assert told.count("done ") == 3

    (sweep / "out" / "plain" / "seed-0").unlink()
    before = (sweep / "out" / "mined" / "seed-1" / "status.json").stat().st_mtime_ns
    assert main([*FLAGS, "--json"]) == 0
    result = capsys.readouterr()
    assert "3 of 4 runs have finished already" in result.err
    assert (sweep / "out" / "mined" / "seed-1" / "status.json").stat().st_mtime_ns == before

    rows = json.loads(result.out)["rows"]
    miou = next(row for row in rows if (row["metric"], row["variant"]) == ("val/miou", "plain"))
    scores = [[_miou(sweep, variant, seed) for seed in (0, 1)] for variant in ("mined", "plain")]
    assert miou["differences"] == pytest.approx([b - a for a, b in zip(*scores, strict=True)])
    with open(sweep / "out" / "runs.csv") as file:
        assert all(float(row["hours_in_steps"]) > 0 for row in csv.DictReader(file))
    assert r"\textbf{mIoU}" in (sweep / "out" / "sweep.tex").read_text()
    with open(sweep / "out" / "runs.csv") as file:
        assert [float(row["val/miou"]) for row in csv.DictReader(file) if row["variant"] == "mined"] == scores[0]
    assert "4 of 4 runs" in (sweep / "out" / "sweep.md").read_text()
    assert "boundary IoU" in (sweep / "out" / "sweep.svg").read_text()


def _miou(folder, variant, seed):
    with open(folder / "out" / variant / f"seed-{seed}" / "metrics.csv") as file:
        return float(list(csv.DictReader(file))[-1]["val_ema/miou"])  # the average decides in tiny.yaml


@pytest.mark.slow
def test_a_mistake_that_two_runs_have_made_is_not_made_by_the_rest(sweep, capsys):
    assert main([*FLAGS, "overrides=[validate.monitor=val/miuo]"]) == 1, "only building a run finds it"
    told = capsys.readouterr().out
    assert told.count("FAILED") == 2
    assert told.count("did you mean 'val/miou'?") == 2
    assert "2 more runs would end alike and are left out" in told


@pytest.mark.slow
def test_a_mistake_of_two_variants_keeps_no_other_from_being_trained(sweep, capsys):
    wrong = ["validate.monitor=val/miuo"]
    assert main([*FLAGS, f"variants={{a: {json.dumps(wrong)}, b: {json.dumps(wrong)}, c: []}}", "seeds=[0]"]) == 1
    assert "done   c · seed 0" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_told(sweep, capsys):
    (sweep / "out").write_text("a file")
    assert main(FLAGS) == 2
    assert "cannot write to out: File exists; choose another --out" in capsys.readouterr().err


def test_a_key_of_a_sweep_that_is_misspelt_does_not_make_it_a_configuration(sweep, capsys):
    (sweep / "sweep.yaml").write_text(SWEEP.replace("variants:", "varaints:"))
    assert main(FLAGS) == 2
    assert "unknown key 'varaints'; did you mean 'variants'?" in capsys.readouterr().err


def test_one_sweep_at_a_time_works_in_a_folder(sweep, capsys):
    (sweep / "out").mkdir()
    hold = "from segtrain.run import RunDirectory as R; from pathlib import Path; r = R(Path('out')); r.lock('--out')"
    other = subprocess.Popen(
        [sys.executable, "-c", f"{hold}; print('held', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "held\n"
    assert main(FLAGS) == 2
    assert (
        "out is being written by another process; wait for its end, or choose another --out" in capsys.readouterr().err
    )
    other.communicate("\n", timeout=60)


def test_a_mistake_in_what_all_variants_share_is_told_once(sweep, capsys):
    assert main([*FLAGS, "overrides=[train.stepz=2]"]) == 2
    told = capsys.readouterr().err
    assert told.count("unknown key 'train.stepz'") == 1
    assert "variant" not in told
    assert main([*FLAGS, "variants={a: [], b: [train.stepz=1], c: [train.stepz=1]}"]) == 2
    assert "variants 'b', 'c': override 'train.stepz=1'" in capsys.readouterr().err


def test_a_sweep_and_a_configuration_taken_for_each_other_are_told_apart(sweep, capsys):
    assert main(["--config", str(ROOT / "tests" / "tiny.yaml")]) == 2
    assert "is a configuration, not a sweep" in capsys.readouterr().err
    assert train(["--config", "sweep.yaml"]) == 2
    assert capsys.readouterr().err.endswith("to train all its runs: segtrain sweep --config sweep.yaml\n")
    assert main([*FLAGS, "train.steps=3"]) == 2
    assert "overrides=[train.steps=400]" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_lets_the_run_save_and_the_same_command_goes_on(sweep):
    command = [sys.executable, "-m", "segtrain", "sweep", *FLAGS, "seeds=[0]", "variants={only: []}"]
    endless = subprocess.Popen(
        [*command, "overrides=[train.steps=100000, validate.every=100000, checkpoint.every=100000, log.pictures=0]"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    run = RunDirectory(sweep / "out" / "only" / "seed-0")
    deadline = time.monotonic() + 120
    while not (run.path / "steps.jsonl").exists() or not (run.path / "steps.jsonl").stat().st_size:
        assert time.monotonic() < deadline
        assert endless.poll() is None
        time.sleep(0.1)
    endless.send_signal(signal.SIGINT)
    _, errors = endless.communicate(timeout=60)
    assert endless.returncode == 130, errors
    assert "goes on from here" in errors
    assert "Traceback" not in errors
    stopped = run.read_status()
    assert stopped["status"] == "interrupted"
    length = stopped["step"] + 3
    short = f"overrides=[train.steps={length}, validate.every={length}, checkpoint.every={length}, log.pictures=0]"
    rest = subprocess.run([*command, short], capture_output=True, text=True, check=False, timeout=120)
    assert rest.returncode == 0, rest.stderr
    assert f"at step {stopped['step']}" in (run.path / "log.txt").read_text()


def test_mistakes_in_the_file_are_told_with_their_place(sweep, capsys):
    (sweep / "sweep.yaml").write_text("config: x.yaml\nseeds: [0, 0]\nvariants: {a/b: []}\n")
    assert main(FLAGS) == 2
    assert "the variant 'a/b' names a folder" in capsys.readouterr().err
    assert main([*FLAGS, "variants={a: []}"]) == 2
    assert "a seed stands twice" in capsys.readouterr().err
    assert main([*FLAGS, "variants={p 1: [], p_1: []}", "seeds=[0]"]) == 2
    assert "'p 1' and 'p_1' would write to one folder" in capsys.readouterr().err
    assert main([*FLAGS, "variants={a: []}", "seeds=[0]"]) == 2
    assert "'x.yaml' does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_sweeps_that_come_along_are_whole(path, in_tmp):
    register_components([])
    sweep, _ = load(path, schema=Sweep)
    runs = planned(sweep, path.parent / sweep.config, in_tmp)
    assert len(runs) == len(sweep.seeds) * len(sweep.variants)
    assert len({one.folder for one in runs}) == len({one.resolved for one in runs}) == len(runs)
