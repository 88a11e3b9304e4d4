"""What mining costs: time and memory of the criterion, forward and backward, beside what everybody writes.

    OMP_NUM_THREADS=1 python benchmarks/criterion.py
    OMP_NUM_THREADS=1 python benchmarks/criterion.py --upsample
    OMP_NUM_THREADS=1 python benchmarks/criterion.py --channels-last
    OMP_NUM_THREADS=1 python benchmarks/criterion.py --network
    python benchmarks/criterion.py --device cuda --amp bf16

All variants take turns in one process, so that whatever else the machine does meets all of them alike; the numbers are
medians and their ratios. A variant that fails says so, and the others go on. `--network` times them in a step of
FPN-ResNet18 (512 x 512, without the optimizer). With `--clock cpu` they are processor time of the thread, which work
beside it disturbs less. Memory is the peak of what a variant allocates beside logits and target. nnU-Net and
mmsegmentation take part if they are installed: `pip install --no-deps nnunetv2 mmsegmentation mmengine mmcv-lite==2.1.0
addict termcolor yapf platformdirs rich ftfy regex wcwidth prettytable`. MONAI has no mining loss.

On a GPU the time is that between two events while the host runs ahead, as it does in training; `--clock wall` has the
host's part too. `floor` is how many times the least it takes: logits read twice and their gradient written, less the
sectors of 32 bytes without a mined pixel, which backward need not read; and per pixel its label twice and four numbers
of 4 bytes; all at the speed at which this device copies memory.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import date
from functools import partial
from types import SimpleNamespace

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
CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "cpu": time.thread_time,
    "device": time.perf_counter,  # a GPU is asked for its own
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    p.add_argument("--amp", default="off", choices=list(DTYPES), help="logits of this type, under autocast")
    p.add_argument("--runs", type=int, default=9, help="of each variant, after one that does not count")
    p.add_argument("--compile", action="store_true", help="also the eager loss and ours compiled (needs a compiler)")
    p.add_argument("--upsample", action="store_true", help=f"logits at 1/{FACTOR} of the size, upsampled for the loss")
    p.add_argument("--channels-last", action="store_true", help="logits whose classes are last in memory")
    p.add_argument("--network", action="store_true", help="forward and backward of FPN-ResNet18 with the losses")
    p.add_argument("--clock", choices=list(CLOCKS), help="wall on a CPU, device on a GPU, where not given")
    p.add_argument("--shrink", type=int, default=1, metavar="N", help="images of 1/N the size along both axes: to try")
    p.add_argument("--classes", type=int, nargs="*", help="only the shapes with these numbers of classes")
    args = p.parse_args()
    args.clock = args.clock or ("device" if args.device == "cuda" else "wall")
    args.bandwidth = bandwidth(args.device) if args.device == "cuda" else None
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()}, {_cpu()}"
    allocator = "transparent huge pages" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else "default allocator"
    print(
        f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, {allocator}, amp {args.amp}, "
        f"{date.today()}; medians of {args.runs}, {args.clock} time"
        + (f", memory at {args.bandwidth / 1e12:.2f} TB/s\n" if args.bandwidth else "\n")
    )
    if args.network:
        step_of_network(args)
        return
    print("| logits | p | variant | ms | ratio | floor | extra MiB | ratio |\n|---|---|---|---|---|---|---|---|")
    for batch, classes, height, width in SHAPES[args.device]:
        shape = (batch, classes, height // args.shrink, width // args.shrink)
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
    losses |= others(top_p)
    losses["segtrain, mined"] = lambda logits, target: mined(logits, target, 0).value
    if compiled:
        losses["segtrain, mined, compiled"] = torch.compile(losses["segtrain, mined"])
        as_trained = copy.deepcopy(mined)
        as_trained.compile_losses()
        losses["segtrain, mined, as train.compile does"] = lambda logits, target: as_trained(logits, target, 0).value
    losses["segtrain, mean CE"] = lambda logits, target: plain(logits, target, 0).value
    return losses


def others(top_p: float) -> dict[str, Loss]:
    """The mining losses of other frameworks that are installed, keeping the same share."""
    losses: dict[str, Loss] = {}
    with warnings.catch_warnings(), suppress(ImportError):
        warnings.simplefilter("ignore")  # it names its reduction in two ways
        from nnunetv2.training.loss.robust_ce_loss import TopKLoss

        top_k = TopKLoss(ignore_index=255, k=100 * top_p)
        losses["nnU-Net TopKLoss"] = lambda logits, target: top_k(logits, target[:, None])
    with suppress(ImportError):
        from mmseg.structures.sampler import OHEMPixelSampler

        def each(logits: Tensor, target: Tensor, **_: object) -> Tensor:
            return F.cross_entropy(logits, target, ignore_index=255, reduction="none")

        def ohem(logits: Tensor, target: Tensor) -> Tensor:  # as its heads do; the losses themselves need mmcv's CUDA
            sampler = OHEMPixelSampler(head, min_kept=max(2, int(top_p * target[0].numel())))
            weight = sampler.sample(logits, target[:, None])
            return (each(logits, target) * weight).mean()

        head = SimpleNamespace(ignore_index=255, loss_decode=each)
        losses["mmsegmentation OHEM"] = ohem
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
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    logits = (2 * torch.randn(made, device=device)).to(DTYPES[amp], memory_format=layout).requires_grad_()
    size = (height, width)
    coarse = torch.randint(0, classes, (batch, height // 8, width // 8), device=device)
    target = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    target[:, : height // 16] = 255

    def step(loss: Loss) -> None:
        logits.grad = None
        with torch.autocast(device, DTYPES[amp], enabled=amp != "off"):
            value = loss(Upsampled(logits, size, size, True) if args.upsample else logits, target)
        value.backward()

    names, times = list(losses), take_turns({name: partial(step, loss) for name, loss in losses.items()}, args)
    peaks = {}
    for name in times:
        logits.grad = None
        peaks[name] = peak(partial(step, losses[name]), device)
    medians = {name: statistics.median(one) for name, one in times.items()}
    least = None if args.bandwidth is None else floor(logits, target, top_p, args) / args.bandwidth
    for name in names:
        start = f"| {' x '.join(map(str, shape))} | {top_p:g} | {name} |"
        if name not in times:
            print(f"{start} failed | | | | |")
            continue
        ratio = f"{medians[names[0]] / medians[name]:.2f}" if names[0] in times else ""
        share = f"{peaks[name] / peaks[names[0]]:.2f}" if names[0] in times else ""
        above = "" if least is None else f"{medians[name] / least:.2f}"
        print(
            f"{start} {1e3 * medians[name]:.3f} | {ratio} | {above} | {peaks[name] / 2**20:.0f} | {share} |", flush=True
        )


def floor(logits: Tensor, target: Tensor, top_p: float, args: argparse.Namespace) -> float:
    """The bytes that no implementation can do without."""
    per_pixel = target.numel() * (2 * target.element_size() + 16)
    logit_bytes = logits.numel() * logits.element_size()
    if args.upsample or top_p == 1:
        return 3 * logit_bytes + per_pixel
    with torch.no_grad():
        losses = torch.cat([
            F.cross_entropy(one[None].float(), label[None], ignore_index=255, reduction="none")
            for one, label in zip(logits, target, strict=True)
        ])  # fmt: skip
        k = max(1, int(top_p * int((target != 255).sum())))
        hard = losses >= losses.flatten().topk(k).values[-1]
        sector = 32 // logits.element_size()
        wanted = hard[:, None].expand(logits.shape)
        wanted = (wanted.movedim(1, -1) if args.channels_last else wanted).flatten()  # as in memory
        read = wanted[: wanted.numel() // sector * sector].view(-1, sector).any(1).float().mean()
    return (2 + float(read)) * logit_bytes + per_pixel


def take_turns(runs: dict[str, Callable[[], None]], args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each run but the first of each; what fails is left out."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.runs + 1):
        for name in list(times):
            try:
                seconds = clocked(runs[name], args.device, args.clock)
            except Exception as error:  # the others are measured all the same
                print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}", file=sys.stderr)
                del times[name]
                continue
            if turn:
                times[name].append(seconds)
    return times


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
    times = take_turns({name: partial(step, name) for name in names}, args)
    print("| loss of the step | ms | ratio |\n|---|---|---|")
    for name, seconds in times.items():
        pairs = zip(times.get(names[0], seconds), seconds, strict=True)
        ratio = statistics.median(one / other for one, other in pairs)
        print(f"| {name} | {1e3 * statistics.median(seconds):.1f} | {ratio:.3f} |")


def clocked(run: Callable[[], None], device: str, clock: str) -> float:
    """Seconds of a run."""
    if clock == "device":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(20_000_000)  # some 10 ms in which the host gets ahead
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3
    if device == "cuda":
        torch.cuda.synchronize()
    began = CLOCKS[clock]()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return CLOCKS[clock]() - began


def bandwidth(device: str) -> float:
    """Bytes per second of copying, read and written."""
    one = torch.empty(1 << 28, device=device)
    other = torch.empty_like(one)
    seconds = [clocked(lambda: other.copy_(one), device, "device") for _ in range(9)]
    return 2 * one.numel() * one.element_size() / statistics.median(seconds)


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
