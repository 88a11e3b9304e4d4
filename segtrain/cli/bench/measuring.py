"""Measuring loader, model and step of a configuration, apart and together."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch

from segtrain import distributed
from segtrain.build import Built, build, register_components
from segtrain.cli.bench.verdict import Measured, rate, verdict
from segtrain.cli.config.files import meant
from segtrain.cli.tables import table
from segtrain.config import Source, load
from segtrain.errors import ConfigError
from segtrain.memory import memory_for, most_resident
from segtrain.processors import processors
from segtrain.profiling import heaviest, in_words
from segtrain.task import Batch, Output
from segtrain.trainer import SMALLER_STEP, Clock

SECONDS, FEWEST, MOST = 10.0, 3, 50  # of a part
SLOW = 1.0  # seconds of a step from which on one is enough to warm up and one to look into
_SAMPLES = 48  # that one process loads


def run(args: argparse.Namespace) -> int:
    """Measure, then tell."""
    if distributed.launched():
        raise ConfigError("bench measures one process; start it without torchrun (benchmarks/ddp.py measures several)")
    register_components(args.modules)
    config, source = load(meant(str(args.config)), args.overrides)
    device = distributed.start(args.device)
    built = build(config, source, device)
    bench = Bench(built, args.steps)
    heavy = bench.measure(args.part)
    words = verdict(bench.seen)
    if args.json:
        print(json.dumps({**dataclasses.asdict(bench.seen), "heaviest": heavy, "verdict": words}, indent=1))
        return 0
    print(_head(built, source, bench))
    print("\n".join(table([["part", "img/s", "ms/step", ""], *_rows(bench.seen, args.part)], "<>><")))
    if heavy:
        print("\nthe heaviest parts of a step:")
        print("\n".join(f"  {line}" for line in heavy))
    print("\n" + "\n".join(f"{'verdict' if not i else '     do'}  {text}" for i, text in enumerate(words)))
    return 0


class Bench:
    """One configuration, built, and what was measured of it."""

    def __init__(self, built: Built, steps: int | None) -> None:
        precision = built.learner.precision
        self.built, self.steps, self.device = built, steps, precision.device
        self.accumulate = built.config.train.accumulate
        self.seen = Measured(
            device=self.device.type,
            processors=processors(),
            threads=torch.get_num_threads(),
            workers=built.loader.workers,
            amp=precision.amp if precision.dtype else "off",
            compiled=bool(built.config.train.compile),
            batch=built.loader.batch_size * self.accumulate,
        )
        # everything that comes later in a run is on: mining, a free encoder; and the learning rate is small
        built.learner.step = max(0, built.steps - 1)

    def measure(self, parts: Sequence[str]) -> list[str]:
        """The parts in turn; returns what a step consists of, in words."""
        heavy = list[str]()
        if "loader" in parts:
            self.loader()
        with memory_for(lambda: f"a step on batches of {self.built.loader.batch_size}", self.device, SMALLER_STEP):
            batches = [self.built.transfer(batch) for batch in self.built.loader.again(0, self.accumulate)]
            if "model" in parts or "step" in parts:
                self.model_and_step(batches, parts)
            if "step" in parts:
                heavy = self.inside(batches)
            if "together" in parts:
                self.together()
        self.memory()
        return heavy

    def loader(self) -> None:
        """Batches as fast as they come, once those that were loaded ahead are gone; then one process by itself."""
        ahead = 2 * self.built.loader.workers
        with closing(self.built.loader.start(0)) as source:  # type: ignore[type-var]
            for _ in itertools.islice(source, ahead):
                pass
            began, images = time.perf_counter(), 0
            for count, batch in enumerate(self._while(source)):
                if count == 0:
                    began = time.perf_counter()
                else:
                    images += len(batch.ids)
            self.seen.loader = images / (time.perf_counter() - began)
        dataset, transform = self.built.loader.source.dataset, self.built.loader.source.transform
        chosen = np.linspace(0, len(dataset) - 1, min(_SAMPLES, len(dataset))).astype(int)
        began = time.perf_counter()
        samples = []
        for index in chosen.tolist():
            samples.append(dataset[index])
            if time.perf_counter() - began > SECONDS / 2:
                break
        middle = time.perf_counter()
        for index, sample in enumerate(samples):
            transform(sample, np.random.default_rng(index))
        self.seen.reading = (middle - began) / len(samples)
        self.seen.transforms = (time.perf_counter() - middle) / len(samples)

    def model_and_step(self, batches: Sequence[Batch], parts: Sequence[str]) -> None:
        """The network alone and whole steps on batches that are there, in turn, so that both meet the same machine."""
        forward, backward, step = list[float](), list[float](), list[float]()
        for _ in self._while(itertools.repeat(None)):
            if "model" in parts:
                one, two = self.model(batches[0])
                forward.append(one * self.accumulate)
                backward.append(two * self.accumulate)
            if "step" in parts:
                began = self._now()
                self.built.learner.update(batches)
                step.append(self._now() - began)
        self.seen.forward, self.seen.backward, self.seen.step = (
            statistics.median(seconds[1:]) if seconds else 0.0 for seconds in (forward, backward, step)
        )

    def model(self, batch: Batch) -> tuple[float, float]:
        """Forward and backward of the network alone, in seconds."""
        learner = self.built.learner
        learner.forward.train()
        began = self._now()
        with learner.precision.autocast():
            output: Any = learner.forward(batch.image)
        middle = self._now()
        heads: tuple[Any, ...] = output if isinstance(output, Output) else (output,)
        mean: Any = torch.stack([one.float().mean() for one in heads]).sum()
        mean.backward()
        ended = self._now()
        learner.optimizer.zero_grad(set_to_none=True)
        return middle - began, ended - middle

    def inside(self, batches: Sequence[Batch]) -> list[str]:
        """What the time of a step consists of, in words."""
        count = 1 if self.seen.step > SLOW else 3
        with torch.profiler.profile() as measured:
            for _ in range(count):
                self.built.learner.update(batches)
            self._now()
        return list(in_words(heaviest(measured, count, most=5)))

    def together(self) -> None:
        """Steps on batches from the loader, as the trainer makes them."""
        clock = Clock(self.device)
        # a step that is slower than the loader leaves it ahead all the time; else what was loaded ahead comes first
        ahead = 0 if self.seen.step > SLOW else 2 * self.built.loader.workers
        with closing(self.built.loader.start(0)) as source:  # type: ignore[type-var]
            for count, _ in enumerate(self._while(itertools.repeat(None), more=ahead)):
                if count == ahead + 1:
                    self._now()
                    clock.restart()
                with clock.waiting():
                    batches = [self.built.transfer(batch) for batch in itertools.islice(source, self.accumulate)]
                self.built.learner.update(batches)
                clock.count(sum(len(batch.ids) for batch in batches))
            self._now()
            read = clock.read(clock.images)
        self.seen.together, self.seen.waiting = read["perf/img_per_s"], read["perf/data_share"]

    def memory(self) -> None:
        """The most that was used so far."""
        if self.device.type == "cuda":
            self.seen.memory = torch.cuda.max_memory_allocated(self.device) / 2**30
            self.seen.memory_total = torch.cuda.get_device_properties(self.device).total_memory / 2**30
        else:
            self.seen.memory = most_resident() / 2**30

    def _while(self, items: Iterator[Any], more: int = 0) -> Iterator[Any]:
        """So many items as were asked for, or as fit into the time; before them `more`, and one to warm up."""
        yield from itertools.islice(items, 1 + more)
        began = time.perf_counter()
        for count in range(self.steps or MOST):
            if not self.steps and count >= FEWEST and time.perf_counter() - began > SECONDS:
                return
            yield next(items)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _head(built: Built, source: Source, bench: Bench) -> str:
    seen, (batch,) = bench.seen, built.loader.again(0, 1)
    where = f"cpu ({seen.threads} of {seen.processors} processors)"
    if seen.device == "cuda":
        where = torch.cuda.get_device_name(bench.device)
    size = "x".join(map(str, batch.image.shape[2:]))
    accumulated = f" x {bench.accumulate} accumulated" if bench.accumulate > 1 else ""
    memory = f"{seen.memory:.1f} GiB" + (f" of {seen.memory_total:.0f}" if seen.memory_total else "") + " used at most"
    precision = "fp32" if seen.amp == "off" else seen.amp
    parts = [source.path.stem, f"torch {torch.__version__}", where, precision, memory]
    parts.insert(4, f"batch {built.loader.batch_size} of {size}{accumulated}")
    return " · ".join(parts) + "\n"


def _rows(seen: Measured, parts: Sequence[str]) -> Iterator[list[str]]:
    milliseconds: Callable[[float], str] = lambda seconds: f"{1000 * seconds:,.1f}"  # noqa: E731
    if "loader" in parts:
        one = f"one process takes {milliseconds(seen.reading)} ms to read an image"
        what = f"{seen.workers} workers; {one} and {milliseconds(seen.transforms)} ms to transform it"
        yield ["loader", rate(seen.loader), milliseconds(seen.batch / seen.loader), what]
    if "model" in parts:
        time_ = seen.forward + seen.backward
        what = f"forward {milliseconds(seen.forward)}, backward {milliseconds(seen.backward)}"
        yield ["model", rate(seen.batch / time_), milliseconds(time_), what]
    if "step" in parts:
        rest = seen.step - seen.forward - seen.backward
        what = f"criterion, optimizer and the rest {milliseconds(max(0.0, rest))}" if "model" in parts else ""
        yield ["step", rate(seen.eaten), milliseconds(seen.step), what]
    if "together" in parts:
        waiting = f"{seen.waiting:.1%} of the time waiting for data"
        yield ["together", rate(seen.together), milliseconds(seen.batch / seen.together), waiting]
