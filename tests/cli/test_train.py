"""The command as a user meets it: in a process of its own, judged by what it prints, leaves and returns."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segtrain.checkpoint import load
from segtrain.cli.train import main

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "tiny.yaml"
COMMAND = [sys.executable, str(ROOT / "tools" / "train.py")]
OURS = ["--import", "tiny_components", "--config", str(TINY)]

pytestmark = pytest.mark.usefixtures("in_tmp")


def run(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=environment, timeout=300, check=False, **options
    )


@pytest.fixture
def finished(in_tmp):
    """A run that has ended well, in run/."""
    result = run(*OURS, "--run-dir", "run")
    assert result.returncode == 0, result.stderr
    return result


def test_a_run_leaves_everything_it_promises_and_ends_with_one_line_of_json(finished, in_tmp):
    last = json.loads(finished.stdout.splitlines()[-1])
    assert last["status"] == "finished"
    assert last["run"] == "run"
    assert 0 <= last["best"]["val/miou"] <= 1
    for name in ("config.yaml", "env.json", "status.json", "log.txt", "metrics.csv", "steps.jsonl", "tb", "val"):
        assert (in_tmp / "run" / name).exists(), name
    status = json.loads((in_tmp / "run" / "status.json").read_text())
    assert (status["status"], status["step"], status["best"]) == ("finished", 8, last["best"])
    assert {p.name for p in (in_tmp / "run" / "checkpoints").iterdir()} == {
        "best.pt",
        "last.pt",
        "step-4.pt",
        "step-8.pt",
    }
    assert "person" in finished.stdout, "a table names every class"
    assert finished.stderr == ""


def test_the_resolved_configuration_repeats_the_run(finished):
    again = run("--import", "tiny_components", "--config", "run/config.yaml", "--run-dir", "again")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["best"] == json.loads(finished.stdout.splitlines()[-1])["best"]


def test_a_resumed_run_ends_as_the_uninterrupted_one(finished):
    half = run(*OURS, "--run-dir", "half", "train.steps=8", "--profile", "4")
    assert half.returncode == 0, half.stderr
    assert load("half/checkpoints/last.pt")["step"] == 4
    rest = run(*OURS, "--run-dir", "half", "--resume", "auto")
    assert rest.returncode == 0, rest.stderr
    assert "resume from half/checkpoints/last.pt at step 4\n" in rest.stdout
    assert str(load("run/checkpoints/last.pt")["model"]) == str(load("half/checkpoints/last.pt")["model"])
    whole, parts = Path("run/metrics.csv").read_text(), Path("half/metrics.csv").read_text()
    assert whole == parts
    more = run(*OURS, "--run-dir", "half", "--resume", "auto")
    assert "at step 8: it is complete, and a larger train.steps would go on" in more.stdout


def test_a_resumed_run_does_not_need_the_weights_it_began_with(finished, in_tmp):
    shutil.copy("run/checkpoints/last.pt", "first.pt")
    assert main([*OURS, "--run-dir", "next", "train.steps=4", "init=first.pt"]) == 0
    (in_tmp / "first.pt").unlink()
    assert main([*OURS, "--run-dir", "next", "--resume", "auto", "train.steps=8", "init=first.pt"]) == 0


def test_resuming_where_nothing_is_begins_a_run_and_says_so(in_tmp, capsys):
    assert main([*OURS, "--resume", "auto", "train.steps=1", "log.root=elsewhere"]) == 0
    assert "resume nothing: there is no checkpoint in elsewhere/" in capsys.readouterr().out


def test_a_used_directory_is_refused(finished):
    again = run(*OURS, "--run-dir", "run")
    assert again.returncode == 2
    assert "run is not empty (a run that is finished at step 8). Use --resume auto" in again.stderr


def test_resuming_with_another_criterion_is_refused(finished):
    other = run(*OURS, "--run-dir", "run", "--resume", "auto", "criterion.top_p=0.5")
    assert other.returncode == 2
    assert "cannot resume with another criterion.top_p: 0.25 → 0.5" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["criterion.top_pp=0.1"], "unknown key 'criterion.top_pp'; did you mean 'top_p'?"),
        (["criterion.top_p=25"], "override 'criterion.top_p=25': criterion: top_p 25"),
        (["train.steps=many"], "train.steps"),
        (["--config", "nowhere.yaml"], "'nowhere.yaml' does not exist"),
        (["--import", "no_such_module"], "--import no_such_module"),
        (["--device", "cuda:7"], "cuda:7"),
        (["--device", "abacus"], "not a device"),
        (["--name", "../elsewhere"], "is not a name"),
        (["validate.monitor=val/mious"], "val/mious"),
    ],
)
def test_a_mistake_is_one_clear_message_and_exit_code_2(arguments, message, in_tmp, capsys):
    assert main([*OURS, *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not (in_tmp / "runs").exists(), "nothing is written before everything is checked"


def test_several_mistakes_are_told_at_once(capsys):
    assert main([*OURS, "criterion.top_pp=0.1", "train.stepps=5", "model.nmae=x"]) == 2
    told = capsys.readouterr().err
    assert all(key in told for key in ("top_pp", "stepps", "nmae"))


def test_a_dry_run_tries_everything_and_writes_nothing(in_tmp, capsys):
    assert main([*OURS, "--dry-run"]) == 0
    assert "one batch forward and backward" in capsys.readouterr().out
    assert not list(in_tmp.iterdir())


def test_help_does_not_wait_for_torch():
    began = time.monotonic()
    result = run("--help")
    assert result.returncode == 0
    assert "key=value" in result.stdout
    code = "import sys; import segtrain.cli.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, f"{time.monotonic() - began} s"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_signal_saves_and_says_so_and_the_run_can_go_on(number, code, in_tmp):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [*OURS, "--run-dir", "run", "train.steps=100000", "log.every=1", "validate.every=100000"]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    steps = in_tmp / "run" / "steps.jsonl"
    while process.poll() is None and not (steps.exists() and steps.stat().st_size):
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors.decode()
    status = json.loads((in_tmp / "run" / "status.json").read_text())
    assert status["status"] == "interrupted"
    assert load("run/checkpoints/last.pt")["step"] == status["step"] > 0


def test_a_few_samples_are_learnt_by_heart(capsys):
    changes = ["train.steps=60", "model.dropout=0", "criterion={name: cross_entropy}", "schedule=null"]
    assert main([*OURS, "--overfit", "1", *changes]) == 0
    lines = capsys.readouterr().out.splitlines()
    losses = [line.split("loss ")[1].split()[0] for line in lines if line.startswith("step")]
    assert float(losses[-1]) < float(losses[0]) / 2
