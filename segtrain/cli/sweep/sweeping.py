"""What `segtrain sweep` does once its flags are read."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import yaml
from pydantic import Field

from segtrain import svg
from segtrain.build import register_components
from segtrain.cli.common import USAGE
from segtrain.comparison import Row, compare, latex, markdown, metric_name, to_csv
from segtrain.config import Source, load
from segtrain.config.reader import read
from segtrain.config.writer import to_yaml
from segtrain.errors import ConfigError
from segtrain.history import deciding, evaluations, trained_seconds
from segtrain.run import RunDirectory
from segtrain.writing import replace

_POLL_S = 0.2
SHOWN = 8  # lines of what a failed run said
# other criteria have other losses, and accuracies say little beside the IoU
_LEFT_OUT = ("val/loss", "val/nll", "val/acc/", "val/macc", "val/aacc", "val/fwiou")
_NAME = re.compile(r"\w[\w .,+=%-]*")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The file of a sweep."""

    config: Annotated[Path, Field(description="the configuration of all runs, relative to this file")]
    seeds: Annotated[tuple[int, ...], Field(min_length=1, description="seeds of the runs of every variant")]
    variants: Annotated[
        dict[str, tuple[str, ...]], Field(min_length=1, description="overrides by name; the first is the base")
    ]
    overrides: Annotated[tuple[str, ...], Field(description="overrides of every run")] = ()

    def __post_init__(self) -> None:
        for name in self.variants:
            if not _NAME.fullmatch(name):
                raise ValueError(f"the variant {name!r} names a folder; allowed: letters, digits, spaces and .,+=%-")
        folders: dict[str, str] = {}
        for name in self.variants:
            if (other := folders.setdefault(_folder(name), name)) != name:
                raise ValueError(f"the variants {other!r} and {name!r} would write to one folder; rename one of them")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a seed stands twice in {list(self.seeds)}")


def _folder(variant: str) -> str:
    return variant.replace(" ", "_")


@dataclass(frozen=True)
class Run:
    """One run of a sweep."""

    variant: str
    seed: int
    folder: Path
    config: Path
    overrides: tuple[str, ...]
    resolved: str  # the configuration in full

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def finished(self) -> bool:
        """Whether it has ended well, made from this very configuration."""
        try:
            made_from = (self.folder / "config.yaml").read_text(encoding="utf-8").partition("\n")[2]
        except OSError:
            return False
        return made_from == self.resolved and RunDirectory(self.folder).read_status().get("status") == "finished"

    def scores(self) -> dict[str, float]:
        """Of its last evaluation. Not of the best: to choose among evaluations on the same images flatters."""
        rows = evaluations(self.folder)
        last = deciding(rows[-1], yaml.safe_load(self.resolved)["validate"]["weights"]) if rows else {}
        return {tag: value for tag, value in last.items() if not tag.startswith(_LEFT_OUT)}

    def __str__(self) -> str:
        return f"{self.variant} · seed {self.seed}"


def run(args: argparse.Namespace) -> int:
    """All runs, then the comparison; returns the exit code."""
    register_components(args.modules)
    sweep, source = read_sweep(args.config, args.overrides)
    out = args.out or Path("runs/sweeps") / source.path.stem
    runs = planned(sweep, source.path.parent / sweep.config, out)
    say = Report(runs, out, source.path, quiet=args.json)
    runner = Runner(args, say)
    folder = RunDirectory(out)  # held to the end: two sweeps would find each other's runs in their way
    folder.lock("--out")
    with runner.stoppable():
        failed = runner.work([one for one in runs if not one.finished()], devices(args.device))
    rows = say.write()
    if args.json:
        print(json.dumps({"out": str(out), "failed": [str(one) for one in failed], "rows": _plain(rows)}))
    elif rows:
        print(f"\n{markdown(rows)}\nwritten to {out}: sweep.md, sweep.tex, sweep.svg, comparison.csv, runs.csv")
    if runner.stopped:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 128 + runner.stopped
    return 1 if failed else 0


def read_sweep(path: Path, overrides: Sequence[str]) -> tuple[Sweep, Source]:
    """The sweep; of a file that is a configuration, or a change that belongs to the runs, what to write instead."""
    try:
        return load(path, overrides, schema=Sweep)
    except ConfigError as error:
        if not is_sweep(path):
            raise ConfigError(
                f"{path} is a configuration, not a sweep, which has config, seeds and variants (--help shows one); "
                f"to train it: segtrain train --config {path}"
            ) from error
        ours = tuple(f"override '{key}" for key in ("config", "overrides", "seeds", "variants"))
        if any(one.startswith("override '") and not one.startswith(ours) for one in error.messages):
            error.add("what all runs of a sweep shall have belongs into its overrides: overrides=[train.steps=400]")
        raise


def is_sweep(path: Path) -> bool:
    """Whether a file is a sweep rather than a configuration, mistaken or not. Raises ConfigError if it is not YAML."""
    root = read(path).value
    return isinstance(root, dict) and not {"config", "variants"}.isdisjoint(root)


def planned(sweep: Sweep, config: Path, out: Path) -> list[Run]:
    """All runs, seed by seed: an unfinished sweep compares like with like. Raises ConfigError for all variants."""
    runs, problems = list[Run](), dict[str, set[str]]()
    for seed in sweep.seeds:
        for name, changes in sweep.variants.items():
            overrides = (*sweep.overrides, *changes, f"seed={seed}")
            try:
                resolved = to_yaml(load(config, overrides)[0])
            except ConfigError as error:
                for message in error.messages:
                    problems.setdefault(message, set()).add(name)
                continue
            folder = out / _folder(name) / f"seed-{seed}"
            runs.append(Run(name, seed, folder, config, overrides, resolved))
    if problems:
        raise ConfigError(*(_of_variants(message, of, sweep) for message, of in problems.items()))
    return runs


def _of_variants(message: str, of: Collection[str], sweep: Sweep) -> str:
    """What all variants have in common is told once, and not as the fault of one of them."""
    if len(of) == len(sweep.variants):
        return message
    return f"variant{'s' * (len(of) > 1)} {', '.join(repr(name) for name in sweep.variants if name in of)}: {message}"


def devices(asked: str) -> list[str]:
    """Where a run at a time can go: every GPU, or the one device that was asked for."""
    if asked != "auto":
        return [asked]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]


class Report:
    """What the user is told and what the sweep leaves, as far as it has come."""

    def __init__(self, runs: Sequence[Run], out: Path, config: Path, *, quiet: bool) -> None:
        self.runs, self.out, self.config, self.quiet = runs, out, config, quiet

    def __call__(self, text: str) -> None:
        print(text, file=sys.stderr if self.quiet else sys.stdout, flush=True)

    def write(self) -> list[Row]:
        """Tables and plot of the runs that have finished."""
        scores: dict[str, dict[int, dict[str, float]]] = {one.variant: {} for one in self.runs}
        done = [one for one in self.runs if one.finished()]
        for one in done:
            scores[one.variant][one.seed] = one.scores()
        rows = [row for row in compare(scores) if row.runs]
        if not rows:
            return []
        title = f"# {self.config.stem}: {len(done)} of {len(self.runs)} runs\n"
        words = (
            "Scores of the last evaluation, mean ± standard deviation over the seeds. Differences are paired by seed, "
            "with 95 % t-intervals; bold where the interval leaves out 0 (each by itself: of many comparisons some "
            "will by chance).\n"
        )
        hours = sum(trained_seconds(one.folder) for one in done) / 3600
        spent = f"{hours:.2f} hours in steps, all runs together; of each run: runs.csv.\n"
        page = f"{title}\n{words}\n{markdown(rows)}\n![differences](sweep.svg)\n\n{spent}"
        replace(self.out / "sweep.md", page.encode())
        replace(self.out / "sweep.tex", latex(rows).encode())
        replace(self.out / "sweep.svg", plot(rows).encode())
        replace(self.out / "comparison.csv", to_csv(rows).encode())
        replace(self.out / "runs.csv", _runs_csv(done).encode())
        return rows


def plot(rows: Sequence[Row]) -> str:
    """The differences from the first variant, seed by seed, with their means and intervals."""
    base = rows[0].variant
    groups: dict[str, list[svg.Bar]] = {}
    for row in rows:
        if row.variant != base and row.differences:
            bar = svg.Bar(row.variant, row.difference, row.low, row.high, row.differences)
            groups.setdefault(metric_name(row.metric).strip("*"), []).append(bar)
    return svg.intervals(f"Difference from {base}: mean and 95 % interval, circles are seeds", groups)


class Runner:
    """Starts processes of `segtrain train`, one per device, and ends them when it is told to."""

    def __init__(self, args: argparse.Namespace, say: Report) -> None:
        self.args, self.say = args, say
        self.stopped = 0  # the signal
        self.running: dict[str, tuple[Run, subprocess.Popen[bytes], float]] = {}
        self.mistakes: dict[str, list[str]] = {}  # what runs said that ended for a mistake of the user: their variants

    def work(self, runs: Sequence[Run], devices: Sequence[str]) -> list[Run]:
        """Train them all; returns those that failed, which do not keep the others from being trained."""
        kept = len(self.say.runs) - len(runs)
        if kept:
            self.say(f"{kept} of {len(self.say.runs)} runs have finished already")
        waiting, failed, spent = list(runs), list[Run](), list[float]()
        while self.running or (waiting and not self.stopped):
            for device in devices:
                if device not in self.running and waiting and not self.stopped:
                    self.start(waiting.pop(0), device)
            time.sleep(_POLL_S)
            for device, (one, process, began) in list(self.running.items()):
                if process.poll() is None:
                    continue
                del self.running[device]
                if self.stopped:
                    continue
                spent.append(time.monotonic() - began)
                left = (len(waiting) + len(self.running)) * sum(spent) / len(spent) / len(devices)
                self.ended(one, process.returncode, failed, spent[-1], left)
                alike = [other for other in waiting if self.would_end_alike(other)]
                if alike:
                    waiting = [other for other in waiting if other not in alike]
                    failed += alike
                    self.say(f"       {len(alike)} more runs would end alike and are left out")
        return failed

    def start(self, one: Run, device: str) -> None:
        """Begin a run or go on with it."""
        one.folder.parent.mkdir(parents=True, exist_ok=True)
        modules = [word for name in self.args.modules for word in ("--import", name)]
        flags = ["--config", str(one.config), "--run-dir", str(one.folder), "--resume", "auto", "--device", device]
        command = [sys.executable, "-m", "segtrain", "train", *modules, *flags, "--quiet", *one.overrides]
        with open(one.log, "wb") as log:
            # in a session of its own: Ctrl-C reaches it once, through us
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        self.running[device] = (one, process, time.monotonic())
        self.say(f"start  {one} on {device}")

    def ended(self, one: Run, code: int, failed: list[Run], seconds: float, left: float) -> None:
        """Tell how a run ended, and write the comparison as it is now."""
        if code == 0 and one.finished():
            name, score = next(iter(one.scores().items()), ("no score", math.nan))
            self.say(f"done   {one}: {name} {score:.4f}, {seconds:.0f} s; about {left / 60:.0f} min to go")
            self.say.write()
            return
        failed.append(one)
        lines = one.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
        words = [line for line in lines if line.startswith("error: ")] or lines[-1:]
        if code == USAGE:
            self.mistakes.setdefault("\n".join(words), []).append(one.variant)
        if any(line.startswith("error: cannot resume with another") for line in words):
            words[-1] = f"{one.folder} was begun otherwise: give the changed variant a name of its own, or choose --out"
        self.say("\n       ".join([f"FAILED {one}: exit code {code}, see {one.log}", *words[:SHOWN]]))

    def would_end_alike(self, one: Run) -> bool:
        """Whether two runs of this variant ended with the same mistake, or one run of every variant."""
        variants = {other.variant for other in self.say.runs}
        return any(of.count(one.variant) > 1 or (len(of) > 1 and set(of) == variants) for of in self.mistakes.values())

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """Signals go to the runs, which save and end; a second one ends them at once."""
        before = {number: signal.signal(number, self.stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, number: int, _: object) -> None:
        """What a signal does."""
        for _, process, _ in self.running.values():
            process.send_signal(signal.SIGKILL if self.stopped else number)
        self.stopped = number
        print("stopping; runs save first, the same signal again ends them at once", file=sys.stderr)


def _plain(rows: Sequence[Row]) -> list[dict[str, object]]:
    def plain(value: object) -> object:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return [{key: plain(value) for key, value in row._asdict().items()} for row in rows]


def _runs_csv(runs: Sequence[Run]) -> str:
    scores = {one: one.scores() for one in runs}
    tags = list(dict.fromkeys(tag for values in scores.values() for tag in values))
    text = io.StringIO()
    table = csv.DictWriter(text, ["variant", "seed", *tags, "hours_in_steps"], lineterminator="\n")
    table.writeheader()
    for one, values in scores.items():
        hours = round(trained_seconds(one.folder) / 3600, 5)
        table.writerow({"variant": one.variant, "seed": one.seed, **values, "hours_in_steps": hours})
    return text.getvalue()
