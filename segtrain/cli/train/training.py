"""What `segtrain train` does once its flags are read."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from segtrain import checkpoint, distributed
from segtrain.build import Built, Limits, build, register_components
from segtrain.cli.common import remarks
from segtrain.cli.config.files import meant
from segtrain.cli.sweep.sweeping import is_sweep
from segtrain.cli.train.banner import banner
from segtrain.cli.train.job import Job, made_from
from segtrain.config import Config, Source, load
from segtrain.data.check import check_labels
from segtrain.data.feed import num_workers
from segtrain.errors import ConfigError
from segtrain.fine_tuning import load_weights
from segtrain.resume import Start, changes, choose, completed
from segtrain.run import RunDirectory

QUICK_CHECK = 64  # label files looked at before every run


def train(args: argparse.Namespace) -> int:
    """The whole job; returns the exit code."""
    register_components(args.modules)
    config, source = read_config(config_path(args), args.overrides)
    device = distributed.start(args.device, timeout_s=config.train.process_group_timeout)
    start = chosen(args, config, source)
    notes: list[str] = []
    if start.state is not None:
        notes = changes(completed(start.state["config"]), made_from(config, args), args.override_resume)
    with remarks() as told:
        built = build(config, source, device, Limits(args.limit_train, args.limit_val, args.overfit))
    if (weights := args.init or config.init) and start.state is None:  # a resumed run has weights of its own
        load_weights(built.learner, weights, args.init_skip)
    labels = distributed.from_main(lambda: check(built, everything=args.check_data or config.data.verify))
    if args.dry_run:
        code = dry_run(built, source, told, labels)
    else:
        code = Job(args, config, source, built, start, [*told, *notes, *start.warnings], labels).run()
    distributed.stop()
    return code


def chosen(args: argparse.Namespace, config: Config, source: Source) -> Start:
    """The run that rank 0 chooses: what a clock says and a directory holds differs between ranks."""
    start: Start | None = None

    def choice() -> tuple[Path, Path | None]:
        nonlocal start
        name = args.name or source.path.stem
        start = choose(args.resume, args.run_dir, config.log.root, name, distributed.restarted_job())
        return start.run.path, start.checkpoint

    path, state = distributed.from_main(choice)
    return start or Start(RunDirectory(path), checkpoint.load(state) if state else None, state)


def config_path(args: argparse.Namespace) -> Path:
    """The configuration that was named (a file, a run's directory, one that comes along), or that of a resumed run."""
    if args.config is not None:
        return meant(str(args.config))
    resumed = Path(args.resume)
    path = (resumed if resumed.is_dir() else resumed.parent.parent) / "config.yaml"
    if not path.exists():
        raise ConfigError(f"--resume {args.resume}: there is no {path}; give --config")
    return path


def read_config(path: Path, overrides: Sequence[str]) -> tuple[Config, Source]:
    """The configuration; of a file that is a sweep, the command for it."""
    try:
        return load(path, overrides)
    except ConfigError as error:
        if is_sweep(path):
            raise ConfigError(f"{path} is a sweep; to train all its runs: segtrain sweep --config {path}") from error
        raise


def check(built: Built, *, everything: bool) -> str:
    """Look at labels before they cost a night; returns what to tell of it."""
    told = []
    for split, dataset in (("train", built.train), ("val", built.val)):
        count, workers = QUICK_CHECK, 0
        if everything:  # in other processes, because a damaged file can take down the one that reads it
            count, workers = len(dataset), max(1, num_workers(built.config.data.workers))
        told.append(f"{split}: {check_labels(dataset, count, workers=workers)}")
    return " · ".join(told)


def dry_run(built: Built, source: Source, told: list[str], labels: str) -> int:
    """One step's work without its effect."""
    tell = print if distributed.is_main() else lambda _: None
    for label, text in banner(built, source, None, labels).items():
        tell(f"{label:7}{text}")
    for text in (*told, *(f"warning: {warning}" for warning in built.warnings)):
        tell(text)
    batch = built.transfer(next(built.loader.start(0)))
    began = time.perf_counter()
    with built.learner.precision.autocast():
        logits = built.learner.forward(batch.image)
    built.learner.check_output(logits, batch)
    loss = built.learner.criterion(logits, batch.target, 0)
    loss.value.backward()
    tell(f"{'try':7}one batch forward and backward: loss {loss.value.item():.4f}, {time.perf_counter() - began:.2f} s")
    return 0
