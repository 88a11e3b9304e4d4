"""The contents of configurations: `show`, `check`, `diff`, and what they may be: `schema`, `keys`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segtrain.build import register_components
from segtrain.cli.common import USAGE
from segtrain.cli.config.files import meant
from segtrain.cli.runs.tables import leaves
from segtrain.cli.sweep.sweeping import Sweep, is_sweep, planned
from segtrain.cli.tables import aligned
from segtrain.config import Source, load
from segtrain.config.reference import as_json, look_up, markdown
from segtrain.config.writer import one_line, plain_config
from segtrain.errors import ConfigError

_WIDEST = 64  # column of the origins, where a value does not reach beyond it


def show(args: argparse.Namespace) -> int:
    """The resolved configuration; with the origins it is still YAML, and gives the same when it is loaded."""
    register_components(args.modules)
    path = meant(args.config)
    config, source = _loaded(path, args.overrides)
    if args.json:
        values, origins = dict(leaves(plain_config(config))), source.provenance()
        print(json.dumps({key: {"value": value, "origin": origins[key]} for key, value in values.items()}, indent=1))
    else:
        print(source.to_yaml() if args.plain else with_origins(source), end="")
    return 0


def with_origins(source: Source) -> str:
    """One value per line, behind it a comment that says where it comes from."""
    lines = list(_lines(source, plain_config(source.config), "", ""))
    width = max((len(text) for text, _ in lines if len(text) <= _WIDEST), default=0)
    return "".join(f"{text:{width}}  # {origin}".rstrip(" #") + "\n" for text, origin in lines)


def _lines(source: Source, value: Any, path: str, indent: str) -> Iterator[tuple[str, str]]:
    """Lines of block YAML without their ends, each with its origin; a line that only opens a block has none."""
    if isinstance(value, dict):
        children = [(f"{one_line(key)}:", str(key), child) for key, child in value.items()]
    else:
        children = [("-", str(index), child) for index, child in enumerate(value)]
    for head, key, child in children:
        below = f"{path}.{key}" if path else key
        if not _is_block(child):
            yield f"{indent}{head} {one_line(child)}", _origin(source, below)
        elif head == "-":
            (first, origin), *rest = _lines(source, child, below, f"{indent}  ")
            yield f"{indent}- {first[len(indent) + 2 :]}", origin
            yield from rest
        else:
            yield f"{indent}{head}", ""
            yield from _lines(source, child, below, f"{indent}  ")


def _is_block(value: Any) -> bool:
    """Whether it has lines of its own: a mapping or a list with something in it, unless that is plain values only."""
    if isinstance(value, list):
        return any(isinstance(item, (dict, list)) for item in value)
    return isinstance(value, dict) and bool(value)


def _origin(source: Source, path: str) -> str:
    mark = source.origin(path)
    if mark is None:
        return "default"
    return f"{mark.source}:{mark.line}" if mark.line else mark.source


def check(args: argparse.Namespace) -> int:
    """Every mistake of every file."""
    register_components(args.modules)
    overrides = [text for text in args.configs if "=" in text and not Path(text).exists()]
    files = [text for text in args.configs if text not in overrides]
    if not files:
        raise ConfigError(f"check {' '.join(overrides)}: no configuration to check; name one or more files")
    wrong = 0
    for text in files:
        try:
            path = meant(text)
            print(f"ok  {path}{_checked(path, overrides)}")
        except ConfigError as error:
            wrong += 1
            print("\n".join(f"error: {message}" for message in error.messages), file=sys.stderr)
    if wrong and len(files) > 1:
        print(f"{wrong} of {len(files)} files have mistakes", file=sys.stderr)
    return USAGE if wrong else 0


def _checked(path: Path, overrides: list[str]) -> str:
    """What to say of a file that has no mistake. Raises ConfigError with all that it has."""
    if not is_sweep(path):
        load(path, overrides)
        return ""
    sweep, source = load(path, overrides, schema=Sweep)
    runs = planned(sweep, source.path.parent / sweep.config, Path())
    return f"  (a sweep of {len(runs)} runs)"


def _loaded(path: Path, overrides: Sequence[str] = ()) -> tuple[Any, Source]:
    """A configuration, or a sweep."""
    return load(path, overrides, schema=Sweep) if is_sweep(path) else load(path, overrides)


def diff(args: argparse.Namespace) -> int:
    """The values that are not the same."""
    register_components(args.modules)
    paths = [meant(args.first), meant(args.second)]
    first, second = (dict(leaves(plain_config(_loaded(path)[0]))) for path in paths)
    keys = [key for key in {**first, **second} if first.get(key, ...) != second.get(key, ...)]
    if args.json:
        print(json.dumps({key: [one.get(key) for one in (first, second)] for key in keys}, indent=1))
    elif not keys:
        print("they say the same")
    else:
        rows = [[key, *(one_line(one[key]) if key in one else "-" for one in (first, second))] for key in keys]
        print(aligned([["", *map(str, paths)], *rows]))
    return 0


def schema(args: argparse.Namespace) -> int:
    """The reference of what comes along, and of what --import brings."""
    register_components(args.modules)
    print(markdown(("segtrain", *args.modules)), end="")
    return 0


def keys(args: argparse.Namespace) -> int:
    """What may stand at one place."""
    register_components(args.modules)
    place = look_up(args.path)
    if args.json:
        print(as_json(place))
        return 0
    parts = [place.doc] if place.doc else []
    if place.entries:
        rows = [[entry.key, entry.allowed, entry.default, entry.purpose] for entry in place.entries]
        parts.append(aligned([["key", "may be", "default", "what"], *rows]))
    if place.components:
        inner = f"{place.path}." if place.path else ""
        some = next(iter(place.components))
        parts.append(f"name: one of these; segtrain config keys {inner}{some} tells its keys")
        parts.append(aligned([[name, text] for name, text in place.components.items()]))
    if place.names:
        parts.append("\n".join(place.names))
    print("\n\n".join(parts))
    return 0
