"""Runs in tables: `ls`, `show`, `compare`; a plot of one scalar; and `clean`."""

from __future__ import annotations

import argparse
import filecmp
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from segtrain import kept, shards, svg
from segtrain.cli.tables import aligned
from segtrain.errors import ConfigError, did_you_mean
from segtrain.history import evaluations, steps, trained_seconds
from segtrain.run import RunDirectory
from segtrain.writing import replace


def ls(args: argparse.Namespace) -> int:
    """A line for each run below a folder, the newest last."""
    if not args.root.is_dir():
        raise ConfigError(
            f"{args.root}: is no folder; name the one that holds the runs (log.root of the configuration)"
        )
    runs = [summary(path) for path in found(args.root)]
    runs.sort(key=lambda one: str(one["time"]))
    if args.json:
        print(json.dumps(runs))
        return 0
    rows = [[str(one[key]) for key in ("run", "status", "best", "step", "trained")] for one in runs]
    print(aligned([["run", "status", "best", "step", "h:mm in steps"], *rows]) if rows else f"no runs in {args.root}")
    return 0


def show(args: argparse.Namespace) -> int:
    """Everything about one run that fits a terminal."""
    path = existing(args.runs[0])
    facts, environment, last = summary(path), RunDirectory(path).read_environment(), _last(path)
    if args.json:
        print(json.dumps({**facts, "environment": environment, "scores": last}))
        return 0
    environment = {key: " ".join(value) if key == "command" else value for key, value in environment.items()}
    print(
        aligned([[key, str(value)] for key, value in {**facts, **environment}.items() if value not in (None, "", [])])
    )
    print(f"\nlast evaluation\n{aligned([[tag, f'{value:.4f}'] for tag, value in last.items() if tag != 'step'])}")
    print(f"\nfiles\n{aligned([[name, _size(path / name)] for name in sorted(os.listdir(path)) if name[0] != '.'])}")
    return 0


def compare(args: argparse.Namespace) -> int:
    """Scores side by side, with the difference of two; then the configuration keys that differ."""
    paths = [existing(path) for path in args.runs]
    last = [_last(path) for path in paths]
    tags = [tag for tag in dict.fromkeys(tag for one in last for tag in one) if tag != "step"]
    configs = [dict(leaves(configuration(path))) for path in paths]
    keys = [key for key in dict.fromkeys(key for one in configs for key in one) if not _same(configs, key)]
    if args.json:
        runs = [
            {"run": str(path), "scores": scores, "config": {key: config.get(key) for key in keys}}
            for path, scores, config in zip(paths, last, configs, strict=True)
        ]
        print(json.dumps(runs))
        return 0
    rows = [["step", *(f"{one.get('step', 0):.0f}" for one in last)]]
    rows += [[tag, *(f"{one[tag]:.4f}" if tag in one else "-" for one in last)] for tag in tags]
    if len(last) == 2:
        for row in rows[1:]:
            first, second = (one.get(row[0]) for one in last)
            row.append("" if first is None or second is None else f"{second - first:+.4f}")
    for number, path in enumerate(paths):
        print(f"[{number + 1}] {path}")
    heads = [f"[{number + 1}]" for number in range(len(paths))]
    print(aligned([["", *heads, *(["difference"] if len(last) == 2 else [])], *rows]))
    differing = [[key, *(str(one.get(key, "-")) for one in configs)] for key in keys]
    print(f"\nconfiguration\n{aligned([['', *heads], *differing])}" if keys else "\nthe configurations are the same")
    return 0


def plot(args: argparse.Namespace) -> int:
    """One line for each run."""
    series = {str(existing(path)): points(path, args.key) for path in args.runs}
    if not any(series.values()):
        known = {tag for path in args.runs for row in (*evaluations(path), *steps(path)) for tag in row}
        raise ConfigError(f"--key {args.key}: none of the runs has it{did_you_mean(args.key, known)}")
    out = args.out or Path(args.key.replace("/", "-") + ".svg")
    replace(out, svg.lines(args.key, series, width=900, height=420).encode())
    print(out)
    return 0


def clean(args: argparse.Namespace) -> int:
    """Checkpoints that are not to be kept."""
    freed = 0
    for path in dict.fromkeys(path for root in args.runs for path in found(root)):
        folder = RunDirectory(path).checkpoints
        keep = [folder / f"{name}.pt" for name in args.keep if (folder / f"{name}.pt").exists()]
        if RunDirectory(path).in_use():
            print(f"{path}: a process is writing it; left alone")
            continue
        if not keep:  # never the only ones there are
            continue
        same = {one.stat().st_ino for one in keep}
        for file in sorted(folder.glob("*.pt")):
            if file in keep or (file.name != "last.pt" and file.stat().st_ino in same):
                continue
            parts = shards.folder_of(file)
            if parts is not None and any(filecmp.cmp(file, one, shallow=False) for one in keep):
                continue  # on a file system without hard links `last` is a copy that needs the same shards
            freed += file.stat().st_size if file.stat().st_nlink == 1 or file.name != "last.pt" else 0
            freed += 0 if parts is None else _bytes(parts)
            print(f"{'deleted' if args.yes else 'would delete'} {file} ({_size(file, *([parts] if parts else []))})")
            if args.yes:
                kept.delete(file)
    print(f"{freed / 2**20:,.0f} MiB" + ("" if args.yes else "; nothing is deleted without --yes"))
    return 0


def found(root: Path) -> list[Path]:
    """The runs at or below a folder."""
    return sorted(path.parent for path in root.rglob("status.json"))


def existing(path: Path) -> Path:
    """The path, if a run is there. Raises ConfigError."""
    if (path / "status.json").exists():
        return path
    below = found(path)[-3:] if path.is_dir() else []
    hint = f"; below it are {', '.join(map(str, below))}" if below else "; tools/runs.py ls lists the runs"
    raise ConfigError(f"{path}: there is no run (no status.json){hint}")


def summary(path: Path) -> dict[str, Any]:
    """What a run came to, in a few words each."""
    run = RunDirectory(path)
    status = run.read_status()
    state = status.get("status", "unknown")
    if state == "running" and not run.in_use():
        state = "died"
    best = status.get("best") or {}
    words = [f"{tag} {value:.4f}" for tag, value in best.items() if tag not in ("step", "weights")]
    of = f" ({best['weights']})" if "weights" in best else ""
    minutes = round(trained_seconds(path) / 60)
    return {
        "run": str(path),
        "status": state,
        "best": f"{words[0]}{of} at {best.get('step')}" if words else "-",
        "step": f"{status.get('step', 0)}/{status.get('steps', '?')}",
        "trained": f"{minutes // 60}:{minutes % 60:02d}",
        "time": status.get("time", ""),
        "error": status.get("error", ""),
    }


def points(path: Path, tag: str) -> list[tuple[float, float]]:
    """A scalar over the steps, from the evaluations or else from the log."""
    for rows in (evaluations(path), steps(path)):
        if values := [(row["step"], row[tag]) for row in rows if tag in row and "step" in row]:
            return values
    return []


def configuration(path: Path) -> Any:
    """The resolved configuration of a run; empty where there is none."""
    try:
        return yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError):
        return {}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of a tree with its dotted path."""
    children: Iterable[tuple[Any, Any]] = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield from leaves(child, f"{path}.{key}" if path else str(key))
    if not isinstance(value, (dict, list)):
        yield path, value


def _last(path: Path) -> dict[str, float]:
    rows = evaluations(path)
    return rows[-1] if rows else {}


def _same(configs: Sequence[Mapping[str, Any]], key: str) -> bool:
    return all(one.get(key, ...) == configs[0].get(key, ...) for one in configs)


def _size(*paths: Path) -> str:
    return f"{_bytes(*paths) / 2**20:,.1f} MiB"


def _bytes(*paths: Path) -> int:
    files = [file for path in paths for file in (path, *path.rglob("*")) if file.is_file()]
    return sum({file.stat().st_ino: file.stat().st_size for file in files}.values())
