"""`segtrain tune batch`: the largest batch that a GPU bears."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from segtrain import distributed
from segtrain.build import Built, build, register_components
from segtrain.cli.bench.verdict import rate
from segtrain.cli.config.files import meant
from segtrain.cli.tables import table
from segtrain.config import load
from segtrain.errors import ConfigError
from segtrain.memory import ran_out
from segtrain.task import Batch

_STEPS = 4  # the first finds algorithms and makes the optimizer's state
_GIB = 2**30


class Tried(NamedTuple):
    """A size of batch: the memory that it took (None: it did not fit) and the images per second."""

    size: int
    gib: float | None
    img_per_s: float


def run(args: argparse.Namespace) -> int:
    """Try, and say what fits."""
    if distributed.launched():
        raise ConfigError("tune tries with one process; start it without torchrun")
    register_components(args.modules)
    config, source = load(meant(str(args.config)), args.overrides)
    device = distributed.start(args.device)
    if device.type != "cuda":
        raise ConfigError(
            "tune batch needs a GPU, and this runs on the CPU, which shares its memory with everything else: the "
            "system ends a process that takes too much instead of refusing. There a batch is chosen by how well it "
            "trains, 8 to 16 images; tools/bench.py tells the memory and the speed of one"
        )
    built = build(config, source, device)
    free, total = torch.cuda.mem_get_info(device)
    limit = args.fraction * (free + torch.cuda.memory_reserved(device))
    most = min(args.most, len(built.train))
    tried = largest(lambda size: attempt(built, size), limit / _GIB, 2, most)
    fitting = [one for one in tried if one.gib is not None and one.gib <= limit / _GIB]
    if not fitting:
        raise ConfigError(
            f"not even {tried[0].size} images fit into {limit / _GIB:.1f} GiB: crop smaller in data.augment, take a "
            "lighter model, or train.amp=bf16"
        )
    best = max(fitting)
    if args.json:
        print(json.dumps({"largest": best.size, "limit_gib": limit / _GIB, "tried": [t._asdict() for t in tried]}))
        return 0
    rows = [
        [str(one.size), "-" if one.gib is None else f"{one.gib:.1f}", rate(one.img_per_s) if one.gib else "too large"]
        for one in sorted(tried)
    ]
    print(f"{torch.cuda.get_device_name(device)}: {limit / _GIB:.1f} of {total / _GIB:.1f} GiB may be used\n")
    print("\n".join(table([["batch", "GiB", "img/s"], *rows], ">>>")))
    now = config.data.batch_size
    print(f"\nlargest  data.batch_size={best.size} (the configuration has {now}); nothing has been changed")
    fastest = max(fitting, key=lambda one: one.img_per_s)
    if fastest.img_per_s > 0 and fastest.size < best.size:
        print(f"note     no size is faster than {fastest.size} ({rate(fastest.img_per_s)} img/s)")
    if best.size != now:
        print("note     another batch wants another learning rate, which is never rescaled by itself: tools/tune.py lr")
    return 0


def largest(attempt: Callable[[int], Tried], limit: float, first: int, most: int) -> list[Tried]:
    """Every size that was tried: doubled until one does not fit, then halfway between, to an eighth of it."""
    tried = list[Tried]()

    def fits(size: int) -> bool:
        tried.append(attempt(size))
        return tried[-1].gib is not None and tried[-1].gib <= limit

    fine, size = 0, min(first, most)
    while fits(size):
        fine = size
        if size == most:
            return tried
        size = min(2 * size, most)
    while size - fine > max(1, fine // 8):
        middle = (fine + size) // 2
        if fits(middle):
            fine = middle
        else:
            size = middle
    return tried


def attempt(built: Built, size: int) -> Tried:
    """A few whole steps on a batch of this size, at the end of the run, where mining and all else is on."""
    learner, device = built.learner, built.learner.precision.device
    learner.step = max(0, built.steps - 1)
    cuda: Any = torch.cuda
    cuda.empty_cache()
    cuda.reset_peak_memory_stats(device)
    seconds = list[float]()
    try:
        batch = built.transfer(of_size(built.loader.again(0, 1)[0], size))
        for _ in range(_STEPS):
            began = time.perf_counter()
            learner.update([batch] * built.config.train.accumulate)
            cuda.synchronize(device)
            seconds.append(time.perf_counter() - began)
        reserved = cuda.max_memory_reserved(device) / _GIB
    except RuntimeError as error:
        if not ran_out(error):
            raise
        return Tried(size, None, 0.0)
    finally:
        learner.optimizer.zero_grad(set_to_none=True)
        batch = None  # type: ignore[assignment]
        gc.collect()
        cuda.empty_cache()
    return Tried(size, reserved, size * built.config.train.accumulate / statistics.median(seconds[1:]))


def of_size(batch: Batch, size: int) -> Batch:
    """The images of a batch again and again, or the first of them."""
    chosen = torch.arange(size) % len(batch.ids)
    ids = tuple(batch.ids[index] for index in chosen.tolist())
    return Batch(batch.image[chosen], batch.target[chosen], ids)
