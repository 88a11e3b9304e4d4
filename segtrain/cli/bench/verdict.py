"""What measurements of a training mean, in words, and what to change next."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

WAITING = 0.1  # share of the time spent waiting for data from which on the loader is what holds training up


@dataclass
class Measured:
    """What was measured; 0 where a part was left out. Times in seconds, rates in images per second."""

    device: str  # cpu, cuda
    processors: int  # that this process may use
    threads: int  # that torch computes with
    workers: int  # loader processes
    amp: str  # off, bf16, fp16
    compiled: bool
    batch: int  # images per step, of this process
    loader: float = 0.0  # rate, all worker processes together
    reading: float = 0.0  # of one image by one process: from disk to array
    transforms: float = 0.0  # of one image by one process
    forward: float = 0.0  # of the model, per step
    backward: float = 0.0
    step: float = 0.0  # everything that a step does with batches that are there already
    together: float = 0.0  # rate
    waiting: float = 0.0  # share of the time of `together`
    memory: float = 0.0  # GiB at most, of the GPU or of this process
    memory_total: float = 0.0

    @property
    def eaten(self) -> float:
        """Images per second that the step could take."""
        return self.batch / self.step if self.step else 0.0


def verdict(seen: Measured) -> list[str]:
    """The judgement first, then what to do about it."""
    if seen.together and seen.loader and seen.step:
        bound = seen.waiting > WAITING
    elif seen.loader and seen.step:
        bound = seen.loader < seen.eaten
    else:
        return ["measure loader, step and together to learn which of them holds training up"]
    share = f"{seen.waiting:.0%} of the time is spent waiting for data" if seen.together else "apart from each other"
    rates = f"the loader gives {rate(seen.loader)} img/s, the step eats {rate(seen.eaten)}"
    if bound and seen.workers == 0 and seen.loader > seen.eaten:
        return [f"loading and stepping take turns (data.workers: 0): {rates}; {share}", *_faster_loader(seen)]
    if bound:
        return [f"loader-bound: {rates}; {share}", *_faster_loader(seen)]
    return [f"step-bound: {rates}; {share}", *_faster_step(seen)]


def _faster_loader(seen: Measured) -> Iterator[str]:
    one = seen.reading + seen.transforms
    free = seen.processors - (1 if seen.device == "cuda" else seen.threads)
    needed = math.ceil(1.1 * seen.eaten * one)
    if seen.workers < needed and seen.workers < free:
        wanted = min(needed, free)
        enough = "" if wanted == needed else f", {needed} would be needed for the step never to wait"
        yield f"raise data.workers from {seen.workers} to {wanted}: one process makes {rate(1 / one)} img/s{enough}"
        if wanted == needed:
            return
    elif seen.workers < needed:
        yield (
            f"data.workers: {seen.workers} of the {needed} that the step would need, but all {seen.processors} "
            "processors are busy: make an image cheaper, or take a machine with more"
        )
    if seen.reading > seen.transforms:
        yield (
            f"reading is {seen.reading / one:.0%} of the work: keep decoded samples on disk "
            "(data.train: {name: cached, folder: …, of: …}), or make the files smaller"
        )
    else:
        yield (
            f"the transforms are {seen.transforms / one:.0%} of the work: crop first, so that the others see fewer "
            "pixels, and leave out the dear ones (colour, blur, warps)"
        )


def _faster_step(seen: Measured) -> Iterator[str]:
    model = seen.forward + seen.backward
    if model and seen.step - model > 0.3 * seen.step:
        rest = (seen.step - model) / seen.step
        yield f"{rest:.0%} of the step is criterion, clipping, optimizer and average, not the model: see its parts"
    if seen.device == "cpu":
        if seen.threads < seen.processors - seen.workers:
            threads = f"OMP_NUM_THREADS={seen.processors - seen.workers}"
            yield f"torch computes with {seen.threads} of {seen.processors} processors: {threads} gives it more"
        else:
            yield "a GPU; without one a smaller crop (data.augment), a lighter encoder or decoder"
    else:
        if seen.amp == "off":
            yield "train.amp=bf16 computes in half the bytes"
        if not seen.compiled:
            yield "train.compile=true fuses operations; try it with this tool"
        if seen.memory_total and seen.memory < 0.5 * seen.memory_total:
            yield (
                f"{seen.memory:.1f} of {seen.memory_total:.0f} GiB are used: a larger data.batch_size may use the GPU "
                "better; tools/tune.py batch says what fits"
            )
    one = seen.reading + seen.transforms
    if one and seen.workers > 1 and (enough := math.ceil(1.2 * seen.eaten * one)) < seen.workers:
        yield f"data.workers: {enough} would be enough"


def rate(value: float) -> str:
    """Images per second with two or three digits."""
    return f"{value:,.0f}" if value >= 20 else f"{value:.2g}" if value < 1 else f"{value:.1f}"
