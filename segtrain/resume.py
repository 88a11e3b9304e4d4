"""Which run to go on with, and whether it is still the same run."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtrain import shards
from segtrain.config.reader import restore
from segtrain.config.writer import plain_config
from segtrain.errors import CheckpointError, ConfigError
from segtrain.kept import newest_valid
from segtrain.run import RunDirectory, latest_run, new_run, run_of_job

# what may differ when a run goes on: how long it is, where things lie, and what it says on the way
FREE = (
    "train.steps",
    "train.epochs",
    "train.on_nonfinite",
    "train.max_nonfinite",
    "train.process_group_timeout",
    "data.workers",
    "data.timeout",
    "data.verify",
    "data.*.root",
    "data.val_batch_size",
    "validate.every",
    "checkpoint.*",
    "log.*",
    "init",
)


@dataclass(frozen=True)
class Start:
    """Where a run begins: its directory, and the state to go on from."""

    run: RunDirectory
    state: dict[str, Any] | None = None
    checkpoint: Path | None = None
    warnings: tuple[str, ...] = ()  # damaged checkpoints that were passed over


def choose(resume: str | None, directory: Path | None, root: Path, name: str, restarted: str | None = None) -> Start:
    """The run that `--resume`, `--run-dir` and `--name` mean together.

    `auto` goes on with the run in `directory`, or with the newest of that name, and starts anew where there is none. A
    path means that run, or that checkpoint. Without `resume` a used directory is refused, unless it is that of the job
    that torchrun has `restarted`, which goes on.
    """
    made = (root / name).glob("*") if directory is None else [directory]
    if restarted is not None and (run := run_of_job(made, restarted)):
        return _newest_or_start(run)
    if resume is None:
        run = RunDirectory(directory) if directory else new_run(root, name)
        run.refuse_if_used()
        return Start(run)
    if resume != "auto":
        return _named(Path(resume), directory, root, name)
    run = RunDirectory(directory) if directory else latest_run(root, name) or new_run(root, name)
    return _newest_or_start(run)


def completed(then: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says that its run was made of, with the defaults of keys that did not exist yet."""
    try:
        config, _ = restore(then, Path("checkpoint"))
    except ConfigError:  # it has keys that are gone: `changes` tells them one by one
        return then
    return {**then, **plain_config(config)}


def changes(then: dict[str, Any], now: dict[str, Any], overridden: Sequence[str]) -> list[str]:
    """What is different and free to be, as lines to log. Raises ConfigError for the differences that are not."""
    old, new = dict(_leaves(then)), dict(_leaves(now))
    lines: list[str] = []
    refused: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key):
            continue
        line = f"{key}: {old.get(key, 'absent')} → {new.get(key, 'absent')}"
        allowed = any(fnmatch.fnmatch(key, pattern) for pattern in (*FREE, *overridden))
        (lines if allowed else refused).append(line)
    if refused:
        keys = " ".join(f"--override-resume {line.split(':')[0]}" for line in refused[:3])
        raise ConfigError(
            *(f"cannot resume with another {line}" for line in refused),
            f"change it back, start a new run from these weights with --init, or insist with {keys}",
        )
    return lines


def _named(path: Path, directory: Path | None, root: Path, name: str) -> Start:
    if path.is_dir():
        found = _newest(RunDirectory(path))
        return Start(_elsewhere(directory, path), found.state, found.checkpoint, found.warnings)
    if not path.exists():
        raise CheckpointError(f"--resume {path}: does not exist; give a run directory, a checkpoint, or auto")
    if path.parent.name == "checkpoints":
        run = _elsewhere(directory, path.parent.parent)
    else:  # a checkpoint that lies alone goes on in a run of its own
        run = _elsewhere(directory, new_run(root, name).path)
    return Start(run, shards.load_rest(path), path)


def _elsewhere(directory: Path | None, home: Path) -> RunDirectory:
    """The run at `home`, or the one in `directory` if that is asked for and free."""
    run = RunDirectory(directory or home)
    if directory is not None and directory.resolve() != home.resolve():
        run.refuse_if_used()
    return run


def _newest_or_start(run: RunDirectory) -> Start:
    return _newest(run) if any(run.checkpoints.glob("*.pt")) else Start(run)


def _newest(run: RunDirectory) -> Start:
    found = newest_valid(run.checkpoints)
    warnings = tuple(f"{text}; passed over" for error in found.damaged for text in error.messages)
    return Start(run, found.state, found.path, warnings)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
    else:
        yield path, value
