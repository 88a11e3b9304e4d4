"""What mining costs: time and memory of the criterion, forward and backward, beside what everybody writes.

    OMP_NUM_THREADS=1 python benchmarks/criterion.py
    OMP_NUM_THREADS=1 python benchmarks/criterion.py --upsample
    OMP_NUM_THREADS=1 python benchmarks/criterion.py --network
    python benchmarks/criterion.py --device cuda --amp bf16

All variants take turns in one process, so that whatever else the machine does meets all of them alike; the numbers are
medians and their ratios. `--network` times them in a step of FPN-ResNet18 (512 x 512, without the optimizer). With
`--clock cpu` they are processor time of the thread, which work beside it disturbs less. Memory is the peak of what a
variant allocates beside logits and target. `nnunetv2` takes part if it is installed (`pip install --no-deps nnunetv2`
is enough); the mining losses of other frameworks are in no package that installs beside a current torch.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.losses import components
from segtrain.losses.criterion import as_criterion, bootstrapped_ce
from segtrain.models.common import upsampling_deferred
from segtrain.models.smp import encoder_decoder
from segtrain.task import Task
from segtrain.upsampling import Logits, Upsampled, full_resolution

SHAPES = {
    "cpu": [(4, 2, 512, 512), (4, 19, 512, 512), (4, 150, 256, 256)],
    "cuda": [(8, 2, 512, 1024), (8, 19, 512, 1024), (16, 150, 512, 512)],
}
DTYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Loss = Callable[[Logits, Tensor], Tensor]
FACTOR = 4


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    p.add_argument("--amp", default="off", choices=list(DTYPES), help="logits of this type, under autocast")
    p.add_argument("--runs", type=int, default=9, help="of each variant, after one that does not count")
    p.add_argument("--compile", action="store_true", help="also torch.compile of the eager loss (needs a compiler)")
    p.add_argument("--upsample", action="store_true", help=f"logits at 1/{FACTOR} of the size, upsampled for the loss")
    p.add_argument("--network", action="store_true", help="forward and backward of FPN-ResNet18 with the losses")
    p.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    p.add_argument("--classes", type=int, nargs="*", help="only the shapes with these numbers of classes")
    args = p.parse_args()
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()}, {_cpu()}"
    allocator = "transparent huge pages" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else "default allocator"
    print(
        f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, {allocator}, amp {args.amp}, "
        f"{date.today()}; medians of {args.runs}, {args.clock} time\n"
    )
    if args.network:
        step_of_network(args)
        return
    print("| logits | p | variant | ms | ratio | extra MiB | ratio |\n|---|---|---|---|---|---|---|")
    for shape in SHAPES[args.device]:
        for top_p in (0.15, 1.0):
            if not args.classes or shape[1] in args.classes:
                losses = variants(shape[1], top_p, args.device, args.compile)
                report(shape, top_p, args, with_upsampling(losses) if args.upsample else losses)


def variants(classes: int, top_p: float, device: str, compiled: bool) -> dict[str, Loss]:
    """The losses to compare; the first is what the others are measured by."""

    def eager(logits: Tensor, target: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, target, ignore_index=255, reduction="none").flatten()
        return losses.topk(max(1, int(top_p * losses.numel()))).values.mean()

    def mean(logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, ignore_index=255)

    task = Task("segmentation", tuple(map(str, range(classes))), ((0, 0, 0),) * classes)
    mined = bootstrapped_ce(task, top_p=top_p).to(device)
    plain = as_criterion(components.cross_entropy(task), task).to(device)
    losses: dict[str, Loss] = {"eager CE, topk, mean": eager}
    if compiled:
        losses["the same, compiled"] = torch.compile(eager)
    losses["eager mean CE"] = mean
    try:
        from nnunetv2.training.loss.robust_ce_loss import TopKLoss
    except ImportError:
        pass
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it names its reduction in two ways
            theirs = TopKLoss(ignore_index=255, k=100 * top_p)
        losses["nnU-Net TopKLoss"] = lambda logits, target: theirs(logits, target[:, None])
    losses["segtrain, mined"] = lambda logits, target: mined(logits, target, 0).value
    losses["segtrain, mean CE"] = lambda logits, target: plain(logits, target, 0).value
    return losses


def with_upsampling(losses: dict[str, Loss]) -> dict[str, Loss]:
    """The same after an interpolation, and segtrain's with the logits at low resolution as they are."""

    def after(loss: Loss) -> Loss:
        return lambda logits, target: loss(full_resolution(logits), target)

    fused = {f"{name}, fused": loss for name, loss in losses.items() if name.startswith("segtrain")}
    return {f"interpolate, {name}": after(loss) for name, loss in losses.items()} | fused


def report(shape: tuple[int, ...], top_p: float, args: argparse.Namespace, losses: dict[str, Loss]) -> None:
    torch.manual_seed(0)
    device, amp = args.device, args.amp
    batch, classes, height, width = shape
    made = (batch, classes, height // FACTOR, width // FACTOR) if args.upsample else shape
    logits = (2 * torch.randn(made, device=device)).to(DTYPES[amp]).requires_grad_()
    size = (height, width)
    coarse = torch.randint(0, classes, (batch, height // 8, width // 8), device=device)
    target = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    target[:, : height // 16] = 255

    def step(loss: Loss) -> None:
        logits.grad = None
        with torch.autocast(device, DTYPES[amp], enabled=amp != "off"):
            value = loss(Upsampled(logits, size, size, True) if args.upsample else logits, target)
        value.backward()

    steps = {name: partial(step, loss) for name, loss in losses.items()}
    times: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(args.runs + 1):
        for name, run in steps.items():
            times[name].append(clocked(run, device, time.thread_time if args.clock == "cpu" else time.perf_counter))
    peaks = {}
    for name, run in steps.items():
        logits.grad = None
        peaks[name] = peak(run, device)
    medians = {name: statistics.median(one[1:]) for name, one in times.items()}
    first = next(iter(losses))
    for name in losses:
        print(
            f"| {' x '.join(map(str, shape))} | {top_p:g} | {name} | {1e3 * medians[name]:.1f} "
            f"| {medians[first] / medians[name]:.2f} | {peaks[name] / 2**20:.0f} | {peaks[name] / peaks[first]:.2f} |",
            flush=True,
        )


def step_of_network(args: argparse.Namespace) -> None:
    """A network at work: mining at full resolution against the plain mean of torch."""
    net = encoder_decoder(19, arch="fpn", encoder="resnet18", encoder_weights=None).to(args.device)
    net = net.to(memory_format=torch.channels_last)
    batch = 2 if args.device == "cpu" else 16
    image = torch.randint(0, 256, (batch, 3, 512, 512), dtype=torch.uint8, device=args.device)
    target = torch.randint(0, 19, (batch, 512, 512), device=args.device)
    losses = variants(19, 0.15, args.device, False)

    def step(name: str) -> None:
        net.zero_grad()
        with torch.autocast(args.device, DTYPES[args.amp], enabled=args.amp != "off"):
            with upsampling_deferred(net) if name.startswith("segtrain") else nullcontext():
                logits = net(image)
            value = losses[name](logits, target)
        value.backward()

    names = ["eager mean CE", "eager CE, topk, mean", "segtrain, mined", "segtrain, mean CE"]
    clock = time.thread_time if args.clock == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.runs + 1):
        for name in names:
            times[name].append(clocked(partial(step, name), args.device, clock))
    print("| loss of the step | ms | ratio |\n|---|---|---|")
    for name in names:
        ratio = statistics.median(one / other for one, other in zip(times[names[0]][1:], times[name][1:], strict=True))
        print(f"| {name} | {1e3 * statistics.median(times[name][1:]):.0f} | {ratio:.3f} |")


def clocked(run: Callable[[], None], device: str, clock: Callable[[], float]) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak(run: Callable[[], None], device: str) -> int:
    """The most bytes that `run` holds at one time beside what was there before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    changes = sorted((one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]")
    held = most = 0
    for _, nbytes in changes:
        held += nbytes
        most = max(most, held)
    return most


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
