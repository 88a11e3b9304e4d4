"""Several machines, and the script for SLURM of the documentation; here each machine is a torchrun of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from ranks import free_port, on_ranks
from states import digest
from torchrun import ROOT, TINY, TRAIN, environment, processes_of_jobs, start, wait_for

from segtrain.cli.train import main

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.usefixtures("in_tmp")]
INJECTOR = str(Path(__file__).parent / "injector.py")
RUN = [*TINY, "train.steps=30", "checkpoint.every=5", "validate.every=15", "--quiet", "--resume", "auto", "--run-dir"]


def test_a_rank_killed_on_one_machine_restarts_both_and_the_run_ends_as_if_nothing_had_happened():
    assert on_ranks(2, main, [*RUN, "undisturbed"], joined=False) == [0, 0]
    meeting = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=street-7"]
    env = {"FAULT": "kill:1:17", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    machines = [start(*RUN, "run", ranks=1, restarts=2, options=meeting, script=INJECTOR, env=env) for _ in range(2)]
    for machine in machines:
        _, errors = machine.communicate(timeout=300)
        assert machine.returncode == 0, errors
    assert Path("fault").exists()
    assert digest("run/checkpoints/last.pt") == digest("undisturbed/checkpoints/last.pt")


def script(steps):
    """The script of docs/distributed.md, for this machine."""
    (text,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", (ROOT / "docs" / "distributed.md").read_text(), re.DOTALL)
    for ours, theirs in {
        "srun torchrun": f"srun {sys.executable} -m torch.distributed.run",
        "--nproc_per_node=8": "--nproc_per_node=2",
        "29500": str(free_port()),
        "tools/train.py": TRAIN,
        "--config configs/camvid.yaml": " ".join([*TINY, f"train.steps={steps}", "checkpoint.every=1000000"]),
    }.items():
        assert ours in text
        text = text.replace(ours, theirs)
    return text


def job(steps, **more):
    env = environment(
        PATH=f"bin{os.pathsep}{os.environ['PATH']}",
        JOBS_IN=os.getcwd(),
        SLURM_JOB_ID="7",
        SLURM_NNODES="1",
        SLURM_JOB_NODELIST="here",
        SLURM_CPUS_PER_TASK="2",
        **more,
    )
    return subprocess.Popen(["bash", "-c", script(steps)], env=env, start_new_session=True)


def test_the_script_for_slurm_saves_before_its_time_is_over_is_queued_again_and_goes_on():
    Path("bin").mkdir()
    for name, does in {
        "srun": 'exec "$@"',
        "scontrol": 'test "$1" = show && echo 127.0.0.1 || echo "$@" >> scontrol',
    }.items():
        Path("bin", name).write_text(f"#!/bin/bash\n{does}\n")
        Path("bin", name).chmod(0o755)
    first = job(100_000)
    wait_for(lambda: Path("runs/7/steps.jsonl").exists() and Path("runs/7/steps.jsonl").stat().st_size)
    first.send_signal(signal.SIGUSR1)  # to the script alone, as B: in --signal says
    first.wait(120)
    assert Path("scontrol").read_text() == "requeue 7\n"
    status = json.loads(Path("runs/7/status.json").read_text())
    assert status["status"] == "interrupted"
    assert not processes_of_jobs()
    again = job(status["step"] + 3, SLURM_RESTART_COUNT="1")
    assert again.wait(120) == 0
    now = json.loads(Path("runs/7/status.json").read_text())
    assert (now["status"], now["step"]) == ("finished", status["step"] + 3)
    assert f"at step {status['step']}" in Path("runs/7/log.txt").read_text()
