"""The files of `segtrain config`: `ls`, `cp`, and which one a user means."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

from segtrain.checkpoint import NO_SPACE
from segtrain.cli.tables import aligned
from segtrain.config.shipped import find, folder, names, purpose
from segtrain.errors import ConfigError
from segtrain.writing import replace

_REFERENCE = re.compile(r"^(config|_base_):[ ]+([^\s#]+)", re.MULTILINE)  # of a sweep, of a configuration


def ls(args: argparse.Namespace) -> int:
    """Name and purpose of each configuration that comes along."""
    known = {name: purpose(find(name)) for name in names()}
    if args.json:
        print(json.dumps([{"name": name, "file": str(find(name)), "purpose": text} for name, text in known.items()]))
        return 0
    print(aligned([["name", "what"], *([name, text] for name, text in known.items())]))
    print(f"\nin {folder()}; segtrain config cp NAME my.yaml makes a copy to change")
    return 0


def cp(args: argparse.Namespace) -> int:
    """Copy a configuration with the file that it refers to; nothing that is there is replaced without being told."""
    source = find(args.name)
    dest = Path(source.name) if args.dest is None else args.dest
    if dest.is_dir():
        dest = dest / source.name
    text = source.read_text(encoding="utf-8")
    copies = {dest: text}
    if reference := _REFERENCE.search(text):
        beside = source.parent / reference[2]
        copies[dest] = text[: reference.start(2)] + beside.name + text[reference.end(2) :]
        copies[dest.parent / beside.name] = beside.read_text(encoding="utf-8")
    if len(copies) == 1 and reference:
        raise ConfigError(f"{dest}: this configuration refers to one of that name; give the copy another")
    there = [path for path in copies if path.exists()]
    if there and not args.overwrite:
        raise ConfigError(f"{there[0]} exists; give another name, or --overwrite to replace it")
    for path, content in reversed(copies.items()):
        try:
            replace(path, content.encode())
        except OSError as error:
            if error.errno in NO_SPACE:
                raise
            raise ConfigError(f"{path} cannot be written: {error.strerror}; choose another place") from error
        print(path)
    command = "sweep" if reference and reference[1] == "config" else "train"
    print(f"next: segtrain {command} --config {shlex.quote(str(dest))}" + (" --dry-run" if command == "train" else ""))
    return 0


def meant(text: str) -> Path:
    """The file: `text` itself, the one in a run's directory, or the one of that name that comes along."""
    path = Path(text)
    if path.is_dir():
        if (path / "config.yaml").is_file():
            return path / "config.yaml"
        raise ConfigError(f"{text} is a folder without a config.yaml; name a configuration or the directory of a run")
    return path if path.exists() or (path.suffix and text.removesuffix(".yaml") not in names()) else find(text)
