"""How long a run takes to its first finished step, beyond importing what everybody imports.

    OMP_NUM_THREADS=1 python benchmarks/startup.py --rounds 5

In turn, in new processes: importing torch, segmentation_models_pytorch and albumentations; and tools/train.py with one
image per batch, from its start until its first step stands in steps.jsonl (which includes the check of the labels).
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
IMPORTS = "import torch, segmentation_models_pytorch, albumentations"


def imports() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - began


def first_step(config: str, overrides: list[str]) -> float:
    folder = Path(tempfile.mkdtemp())
    command = [sys.executable, str(ROOT / "tools/train.py"), "--config", config, "--run-dir", str(folder / "run")]
    command += ["--quiet", "data.batch_size=1", "log.every=1", *overrides]
    steps = folder / "run/steps.jsonl"
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT) as process:
        while not (steps.exists() and steps.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(f"ended with {process.returncode} before its first step: {' '.join(command)}")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        process.kill()
    shutil.rmtree(folder)
    return seconds


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--config", default=str(ROOT / "configs/bootstrap.yaml"))
    p.add_argument("overrides", nargs="*")
    args = p.parse_intermixed_args()
    alone, whole = [], []
    for turn in range(args.rounds + 1):  # the first one fills the disk cache
        seconds = imports(), first_step(args.config, args.overrides)
        if turn:
            alone.append(seconds[0])
            whole.append(seconds[1])
    beyond = [a - b for a, b in zip(whole, alone, strict=True)]
    print("| | median s | all |\n|---|---|---|")
    for name, numbers in (("the imports", alone), ("to the first step", whole), ("beyond the imports", beyond)):
        print(f"| {name} | {statistics.median(numbers):.2f} | {' '.join(f'{number:.2f}' for number in numbers)} |")
    print(f"\n{Path(args.config).name}, {platform.machine()}, torch {torch.__version__}, {date.today()}")


if __name__ == "__main__":
    main()
