"""How time and memory of a step grow with the size of the images, the batch, the number of classes and of ranks.

    OMP_NUM_THREADS=1 python benchmarks/cost.py

Each row is a process of its own, which trains a few steps of FPN-ResNet18 with mining on random images; a rank is one
more process on the same machine, so ranks share its processors. The law is the exponent b of quantity^b between the
last two rows of a block, where fixed costs matter least. Memory is what the steps add at their peak to what the process
held before.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from datetime import date

import torch

from segtrain import distributed
from segtrain.build import register_components
from segtrain.learner import Learner
from segtrain.losses.criterion import as_criterion
from segtrain.optim import parameter_groups
from segtrain.parallel import replicated
from segtrain.precision import precision
from segtrain.registry import CRITERIA, MODELS, OPTIMIZERS
from segtrain.schedule import constant
from segtrain.task import Batch, Task

BASE = {"size": 128, "batch": 4, "classes": 7, "ranks": 1}
BLOCKS = {"size": (64, 128, 256, 512), "batch": (1, 2, 4, 8, 16), "classes": (2, 7, 19, 150), "ranks": (1, 2)}


def measure(size: int, batch: int, classes: int, ranks: int, steps: int) -> None:
    """Print the median seconds of a step and the MiB that steps add, on rank 0 of `ranks`."""
    warnings.filterwarnings("ignore")
    register_components()
    device = distributed.start()
    assert distributed.world_size() == ranks
    task = Task("segmentation", tuple(map(str, range(classes))), ((0, 0, 0),) * classes)
    criterion = as_criterion(CRITERIA["bootstrapped_ce"](task, top_p=0.25), task)
    model = MODELS["smp"](classes, arch="fpn", encoder="resnet18", encoder_weights=None)
    model = model.to(memory_format=torch.channels_last)
    learner = Learner(
        model,
        criterion,
        OPTIMIZERS["adamw"](parameter_groups(model, lr=1e-3, weight_decay=0.01)),
        constant(),
        precision=precision("auto", device),
        clip_norm=1.0,
        forward=replicated(model, device, static_graph=False, compression=None),
    )
    random = torch.Generator().manual_seed(distributed.rank())
    image = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=random)
    target = torch.randint(0, classes, (batch, size, size), dtype=torch.uint8, generator=random)
    given = Batch(image, target, tuple(map(str, range(batch)))).to(device, torch.channels_last)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        learner.update([given])
        seconds.append(time.perf_counter() - began)
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if distributed.is_main():
        print(f"{learner.precision.amp} {statistics.median(seconds[2:])} {added / 1024}")
    distributed.stop()


def measured(steps: int, setup: dict[str, int]) -> tuple[str, float, float]:
    flags = [part for name, value in setup.items() for part in (f"--{name}", str(value))]
    launcher = [] if setup["ranks"] == 1 else ["-m", "torch.distributed.run", f"--nproc_per_node={setup['ranks']}"]
    command = [sys.executable, *launcher, __file__, "--steps", str(steps), *flags]
    amp, seconds, mib = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-3:]
    return amp, float(seconds), float(mib)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=8)
    for name in BASE:
        p.add_argument(f"--{name}", type=int, help="of a single measurement")
    args = p.parse_args()
    if args.size:
        return measure(args.size, args.batch, args.classes, args.ranks, args.steps)
    amp = ""
    for name, values in BLOCKS.items():
        rows = []
        for value in values:
            amp, seconds, mib = measured(args.steps, {**BASE, name: value})
            rows.append((value, seconds, mib))
        grown = math.log(rows[-1][0] / rows[-2][0])
        laws = [math.log(rows[-1][i] / rows[-2][i]) / grown for i in (1, 2)]
        print(f"\n| {name} | ms per step | MiB added |\n|---|---|---|")
        for value, seconds, mib in rows:
            print(f"| {value} | {1000 * seconds:.0f} | {mib:.0f} |")
        print(f"| law | {name}^{laws[0]:.2f} | {name}^{laws[1]:.2f} |")
    base = ", ".join(f"{name} {value}" for name, value in BASE.items())
    print(
        f"\nFPN-ResNet18, {base} where not said otherwise, amp {amp}, {platform.machine()}, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}, torch {torch.__version__}, {date.today()}"
    )
    return None


if __name__ == "__main__":
    main()
