"""What exact losses and mining over ranks cost: steps of segtrain against steps of plain DistributedDataParallel.

    torchrun --standalone --nproc_per_node=2 benchmarks/ddp.py --steps 60

All variants live in one process group and take turns, one step each, so that whatever else the machine does meets all
of them alike. The numbers are medians; a step begins at a barrier and ends when the device has finished.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from segtrain import distributed
from segtrain.build import build, register_components
from segtrain.config import load
from segtrain.distributed import Vote
from segtrain.selection import take_largest
from segtrain.task import Batch

CONFIG = Path(__file__).parents[1] / "configs" / "bootstrap.yaml"
CRITERIA = {
    "segtrain, cross entropy": "{name: cross_entropy}",
    "segtrain, mined on each rank": "{name: bootstrapped_ce, top_p: 0.25, scope: rank}",
    "segtrain, mined over ranks": "{name: bootstrapped_ce, top_p: 0.25}",
}
COMMON = [
    "optimizer.clip_norm=null",
    "train.ema=null",
    "validate.weights=raw",
    "train.amp='off'",
    "data.workers=0",
    "schedule=null",
]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=60)
    p.add_argument("--batch", type=int, default=4, help="images per rank")
    p.add_argument("--size", type=int, default=96, help="of a square image")
    p.add_argument("--device", default="auto")
    args = p.parse_args()
    register_components()
    device = distributed.start(args.device)
    batch = random_batch(args.batch, args.size, device)
    steps = {"plain DDP, cross entropy": plain(batch, device)}
    steps |= {name: ours(criterion, batch, device) for name, criterion in CRITERIA.items()}
    entries = args.batch * args.size**2
    parts = {
        f"selection over ranks, {entries:,} pixels per rank": selection(entries, device, over_ranks=True),
        f"selection on each rank, {entries:,} pixels": selection(entries, device, over_ranks=False),
        "sum of one number over ranks": lambda: distributed.sum_over_ranks(torch.ones((), device=device)),
        "stop vote": stop_vote(),
    }
    print_table("step", measured(steps, args.steps, device), reference="plain DDP, cross entropy")
    print_table("part", measured(parts, 4 * args.steps, device))
    if distributed.is_main():
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
        backend = dist.get_backend() if dist.is_initialized() else "alone"
        print(
            f"\n{distributed.world_size()} ranks, {backend}, {name}, {torch.get_num_threads()} threads per rank, "
            f"torch {torch.__version__}, fpn / resnet18, batch {args.batch} x {args.size} x {args.size} per rank, "
            f"{args.steps} steps each, {date.today()}"
        )
    distributed.stop()


def random_batch(images: int, size: int, device: torch.device) -> Batch:
    random = torch.Generator().manual_seed(distributed.rank())
    image = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=random)
    target = torch.randint(0, 7, (images, size, size), dtype=torch.uint8, generator=random)
    return Batch(image.to(device), target.to(device), tuple(map(str, range(images))))


def plain(batch: Batch, device: torch.device) -> Callable[[], object]:
    """The loop that every tutorial has, with the same model and optimizer."""
    config, source = load(CONFIG, [*COMMON, "criterion={name: cross_entropy}"])
    learner = build(config, source, device).learner
    model, optimizer, target = learner.forward, learner.optimizer, batch.target.long()
    assert isinstance(model, DistributedDataParallel) or distributed.world_size() == 1

    def step() -> None:
        F.cross_entropy(model(batch.image), target, ignore_index=255).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    model.train()
    return step


def ours(criterion: str, batch: Batch, device: torch.device) -> Callable[[], object]:
    config, source = load(CONFIG, [*COMMON, f"criterion={criterion}"])
    learner = build(config, source, device).learner
    return lambda: learner.update([batch])


def selection(entries: int, device: torch.device, *, over_ranks: bool) -> Callable[[], object]:
    random = torch.Generator().manual_seed(distributed.rank())
    scores = torch.rand(entries, generator=random).to(device)
    available = torch.ones(entries, dtype=torch.float64, device=device)
    amount = available.sum()[None] * (0.25 * (distributed.world_size() if over_ranks else 1))
    return lambda: take_largest(scores, available, amount, over_ranks=over_ranks)


def stop_vote() -> Callable[[], object]:
    vote = Vote()
    return lambda: vote(0)


def measured(
    variants: dict[str, Callable[[], object]], rounds: int, device: torch.device, warm_up: int = 5
) -> dict[str, list[float]]:
    """Seconds of each call, by variant; all are called in each round, from another one on in each."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for turn in range(warm_up + rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if dist.is_initialized():
                dist.barrier()
            began = time.perf_counter()
            variants[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def print_table(what: str, seconds: dict[str, list[float]], reference: str | None = None) -> None:
    if not distributed.is_main():
        return
    print(f"\n| {what} | median ms | quartiles |" + (" ratio |" if reference else ""))
    print("|---|---|---|" + ("---|" if reference else ""))
    for name, times in seconds.items():
        low, middle, high = (1000 * quarter for quarter in statistics.quantiles(times, n=4))
        ratio = f" {statistics.median(times) / statistics.median(seconds[reference]):.3f} |" if reference else ""
        print(f"| {name} | {middle:.2f} | {low:.2f}–{high:.2f} |{ratio}")


if __name__ == "__main__":
    main()
