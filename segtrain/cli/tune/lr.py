"""`segtrain tune lr`: the loss while the learning rate grows, and what that suggests.

Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from segtrain import distributed, svg
from segtrain.build import Built, build, register_components
from segtrain.cli.config.files import meant
from segtrain.config import load
from segtrain.errors import ConfigError
from segtrain.finite import FiniteGuard, NonFiniteError
from segtrain.memory import memory_for
from segtrain.optim import Encoder
from segtrain.trainer import SMALLER_STEP
from segtrain.writing import replace

DIVERGED = 3.0  # the loss has left its lowest value this many times behind
FELL = 0.05  # a loss that has not fallen by this share of its first value has not been learnt from
_MOST = 0.95  # of the fall: with adaptive optimizers a loss may then stay where it is for decades
_SAFE = 3.0  # the suggestion is this many times below the rate at which most of the fall is done


@dataclass(frozen=True)
class Curve:
    """Learning rates with the loss at each, and what they suggest."""

    rates: Sequence[float]
    losses: Sequence[float]
    smooth: Sequence[float]
    diverged: float | None  # the rate at which the test ended
    lowest: float
    fallen: float  # the first rate at which most of the fall is done
    steepest: float
    suggestion: float | None  # None where the loss has not fallen


def run(args: argparse.Namespace) -> int:
    """Try, plot, suggest."""
    if distributed.launched():
        raise ConfigError("tune tries with one process; start it without torchrun")
    register_components(args.modules)
    path = meant(str(args.config))
    out = args.out or Path(f"tune-lr-{path.stem}.svg")
    _writable(out, args.overwrite)
    config, source = load(path, args.overrides)
    built = build(config, source, distributed.start(args.device))
    points, diverged = measured(built, args.low, args.high, args.steps)
    curve = read(points, diverged)
    replace(out, plot(curve, f"Range test of the learning rate: {path.stem}").encode())
    configured = config.optimizer.component.params["lr"]
    if config.optimizer.encoder_lr is not None:
        ratio = config.optimizer.encoder_lr / configured
        print(
            f"{'note':12}optimizer.encoder_lr was {ratio:.3g} of every rate, as in the configuration", file=sys.stderr
        )
    if args.json:
        print(json.dumps({**vars(curve), "configured": configured, "plot": str(out)}))
    else:
        print("\n".join([*told(curve, args.high, configured), f"{'plot':12}{out}"]))
    return 0


def measured(built: Built, low: float, high: float, steps: int) -> tuple[list[tuple[float, float]], float | None]:
    """(rate, loss) of each step, and the rate at which the loss blew up if it did; the model is lost afterwards."""
    learner, accumulate = built.learner, built.config.train.accumulate
    base = built.config.optimizer.component.params["lr"]  # other groups keep their ratio to it
    learner.lr = lambda step: low * (high / low) ** (step / (steps - 1)) / base
    learner.encoder = Encoder(learner.model)  # nothing is at rest
    learner.guard = FiniteGuard("raise")
    points, lowest = list[tuple[float, float]](), math.inf

    def what() -> str:
        return f"a step on {accumulate} x {built.loader.batch_size} images"

    with closing(built.loader.start(0)) as source:  # type: ignore[type-var]
        for _ in range(2 * steps):  # in fp16 the first ones may not count
            if learner.step == steps:
                break
            batches = [built.transfer(batch) for batch in itertools.islice(source, accumulate)]
            now, before = base * learner.lr(learner.step), learner.step
            try:
                with memory_for(what, learner.precision.device, SMALLER_STEP):
                    learner.update(batches)
                    scalars = learner.read_logs()
            except NonFiniteError:
                return points, now
            if learner.step == before:
                continue
            loss = scalars["train/loss_all"]  # of all valid pixels: mining may change its share meanwhile
            if not math.isfinite(loss) or (len(points) > 10 and loss > DIVERGED * max(lowest, 1e-8)):
                return points, now
            points.append((now, loss))
            recent = [one for _, one in points[-5:]]
            lowest = min(lowest, sum(recent) / len(recent))
    return points, None


def read(points: Sequence[tuple[float, float]], diverged: float | None) -> Curve:
    """What a test says. Raises ConfigError if there are too few points to say anything."""
    if len(points) < 8:
        raise ConfigError(
            f"the loss blew up after {len(points)} steps: --min is too large, or the labels are not what they should "
            "be (tools/data.py check)"
        )
    rates, losses = [rate for rate, _ in points], [loss for _, loss in points]
    smooth = list(_smoothed(losses, max(2, len(losses) // 20)))
    bottom = min(range(len(smooth)), key=smooth.__getitem__)
    top = max(smooth[: bottom + 1])
    fallen = next(index for index, loss in enumerate(smooth) if loss <= top - _MOST * (top - smooth[bottom]))
    slopes = [after - before for before, after in itertools.pairwise(smooth[: fallen + 1])]
    steep = min(range(len(slopes)), key=slopes.__getitem__) if slopes else 0
    fell = smooth[bottom] < (1 - FELL) * smooth[0]
    suggestion = rates[fallen] / _SAFE if fell else None
    return Curve(rates, losses, smooth, diverged, rates[bottom], rates[fallen], rates[steep], suggestion)


def _smoothed(values: Sequence[float], reach: int) -> Iterator[float]:
    """Means over the neighbours on both sides, so that nothing is shifted to larger rates."""
    for index in range(len(values)):
        near = values[max(0, index - reach) : index + reach + 1]
        yield sum(near) / len(near)


def told(curve: Curve, high: float, configured: float) -> Iterator[str]:
    """The curve in words."""
    bottom = curve.rates.index(curve.lowest)
    end = f"blows up at {curve.diverged:.2g}" if curve.diverged else f"had not blown up at {high:g}"
    yield (
        f"{'loss':12}{curve.smooth[0]:.3g} at {curve.rates[0]:.2g}, lowest {curve.smooth[bottom]:.3g} at "
        f"{curve.lowest:.2g}, {end} ({len(curve.rates)} steps)"
    )
    if curve.suggestion is None:
        yield f"{'suggestion':12}none: the loss has not fallen. More --steps, or a larger --max"
        return
    if curve.diverged is None and curve.rates.index(curve.fallen) >= 0.9 * len(curve.rates):
        yield f"{'note':12}the loss was still falling at the largest rate; a larger --max says more"
    yield (
        f"{'suggestion':12}optimizer.lr={curve.suggestion:.1e}, a third of {curve.fallen:.1e}, where {_MOST:.0%} of "
        f"the fall is done (fastest at {curve.steepest:.1e}); the configuration has {configured:.1e}"
    )
    yield f"{'':12}the peak of a schedule, to be tried against three times as much; nothing has been changed"


def plot(curve: Curve, title: str) -> str:
    """The loss over the rate on a logarithmic scale, with the rates that were found."""
    places = [math.log10(rate) for rate in curve.rates]
    low, top = min(curve.losses), max(curve.smooth)
    series = {
        "each step": [(x, min(y, 1.2 * top)) for x, y in zip(places, curve.losses, strict=True)],
        "smoothed": list(zip(places, curve.smooth, strict=True)),
    }
    for name, rate in (("fallen", curve.fallen), ("fastest fall", curve.steepest), ("suggestion", curve.suggestion)):
        if rate is not None and rate >= curve.rates[0]:
            series[f"{name}: {rate:.1e}"] = [(math.log10(rate), low), (math.log10(rate), top)]
    decades = range(math.ceil(places[0] - 1e-9), math.floor(places[-1] + 1e-9) + 1)
    marks = [(float(decade), f"1e{decade}") for decade in decades]
    return svg.lines(title, series, width=760, height=340, x_name="learning rate (logarithmic)", x_marks=marks)


def _writable(out: Path, overwrite: bool) -> None:
    """Raise ConfigError now rather than after the test."""
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists; give another --out, or --overwrite to replace it")
    above = next(path for path in out.absolute().parents if path.exists())
    if not above.is_dir():
        raise ConfigError(f"--out {out}: {above} is no folder")
    if not os.access(above, os.W_OK):
        raise ConfigError(f"--out {out}: {above} cannot be written to; choose another place")
