"""What watching costs: the share of the training time that logs, close looks at the mining and pictures take.

    OMP_NUM_THREADS=1 python benchmarks/observers.py --rounds 40
    OMP_NUM_THREADS=1 SEGTRAIN_DATA=… python benchmarks/observers.py --config camvid --rounds 15 data.batch_size=4

A step, a log without and one with a close look take turns on one batch in memory, each timed by itself once the device
is idle; the observers write all that a run writes. Shares are those of medians, at the intervals of the configuration.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from segtrain.build import Built, build, register_components
from segtrain.config import load
from segtrain.observers.console import Console
from segtrain.observers.files import Files
from segtrain.observers.tensorboard import TensorBoard
from segtrain.trainer import Clock, Every, Trainer

CONFIGS = Path(__file__).parents[1] / "configs"


def trainer_of(built: Built, folder: Path, mining: int) -> Trainer:
    """A trainer with every observer, whose logs have a close look at each step (`mining` 1) or never."""
    observers = [
        Console(folder / "log.txt", steps=built.steps, quiet=True),
        Files(folder, built.task),
        TensorBoard(folder / "tb", built.task),
    ]
    return Trainer(
        built.learner,
        built.loader,
        steps=10**9,
        every=Every(log=1, validate=10**9, save=10**9, mining=mining),
        transfer=built.transfer,
        evaluate=built.evaluator,
        save=lambda name, state: None,
        observers=observers,
    )


def timed(device: torch.device, action: Callable[[], object]) -> float:
    """Milliseconds of an action, from an idle device to an idle device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("overrides", nargs="*", metavar="key=value")
    p.add_argument("--config", default="bootstrap")
    p.add_argument("--rounds", type=int, default=40)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args()
    register_components()
    device, folder = torch.device(args.device), Path(tempfile.mkdtemp())
    config, source = load(CONFIGS / f"{args.config}.yaml", ["data.workers=0", *args.overrides])
    built = build(config, source, device)
    batch = built.transfer(next(built.loader.start(0)))
    learner, clock = built.learner, Clock(device)
    plain, close = (trainer_of(built, folder / name, every) for name, every in (("plain", 10**9), ("close", 1)))
    times: dict[str, list[float]] = {"step": [], "log": [], "log with a close look": []}
    for _ in range(args.rounds + 2):
        for name, trainer in (("log", plain), ("log with a close look", close)):
            times["step"].append(timed(device, lambda: learner.update([batch])))
            logits = learner.update([batch])
            clock.count(len(batch.ids))
            # what a run does between its steps; nothing public does this alone
            times[name].append(timed(device, lambda t=trainer, x=logits: t._log(clock, x, batch)))  # type: ignore[misc]
    step, log, look = (statistics.median(one[2:]) for one in times.values())
    report = built.evaluator(learner.model, 0)
    evaluation = min(timed(device, lambda: built.evaluator(learner.model, 0)) for _ in range(2))
    reports = [replace(report) for _ in range(3)]  # what is drawn of a report is kept
    told = [timed(device, lambda r=r: [one.on_evaluation(1, r) for one in close.observers]) for r in reports]  # type: ignore[misc]
    pictures = statistics.median(told)
    every, validate = built.every, built.every.validate
    both = evaluation * (1 + (learner.ema is not None))
    print("| part | median ms | every | share of the time of the steps |\n|---|---|---|---|")
    for name, ms, interval in (
        ("log: one transfer, console, files, TensorBoard", log, every.log),
        ("close look at what is mined", look - log, every.mining),
        ("pictures and scalars of an evaluation", pictures, validate),
    ):
        print(f"| {name} | {ms:.1f} | {interval} steps | {100 * ms / interval / step:.2f} % |")
    total = log / every.log + (look - log) / every.mining + pictures / validate
    print(f"| all | | | **{100 * total / step:.2f} %** |")
    print(
        f"\nA step takes {step:.0f} ms, an evaluation {both:.0f} ms, {100 * both / validate / step:.1f} % of the steps."
    )
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    size, threads = "x".join(map(str, batch.image.shape)), torch.get_num_threads()
    print(f"{args.config}, batch {size}, {card}, {threads} threads, torch {torch.__version__}, {date.today()}")


if __name__ == "__main__":
    main()
