"""`segtrain config`: what configurations there are, what they say, what they may say."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from segtrain.cli import subcommands
from segtrain.cli.arguments import add_json, add_modules, add_traceback

ABOUT = (
    "List, copy, show, check, compare and explain configurations. "
    "C is a file, a run's directory, or the name of a configuration that comes along."
)
EXAMPLES = """examples:
  tools/config.py ls
  tools/config.py cp camvid my.yaml
  tools/config.py show my.yaml criterion.top_p=0.1
  tools/config.py check configs/*.yaml
  tools/config.py diff configs/ce.yaml configs/bootstrap.yaml
  tools/config.py diff runs/bootstrap/20261121-001502 my.yaml
  tools/config.py keys criterion
  tools/config.py keys criterion.bootstrapped_ce
  tools/config.py keys model.smp.encoder
  tools/config.py schema > docs/config.md
"""


def parser() -> argparse.ArgumentParser:
    """One subcommand for each question about configurations."""
    return subcommands.parser("config", ABOUT, COMMANDS, EXAMPLES)


def _ls(p: argparse.ArgumentParser) -> None:
    """the configurations that come along, and what they are for"""
    _json(p)


def _cp(p: argparse.ArgumentParser) -> None:
    """copy one that comes along, to change it"""
    p.add_argument("name", metavar="NAME", help="as ls has it")
    p.add_argument("dest", nargs="?", type=Path, metavar="DEST", help="a file or a folder (default: NAME.yaml, here)")
    p.add_argument("--overwrite", action="store_true", help="replace a file that is there")


def _show(p: argparse.ArgumentParser) -> None:
    """a configuration in full, every value with its origin: file and line, override, or default"""
    p.add_argument("config", metavar="C", help="a configuration")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="changes to it")
    p.add_argument("--plain", action="store_true", help="without the origins, as a run keeps it")
    _modules(p)
    _json(p)


def _check(p: argparse.ArgumentParser) -> None:
    """every wrong key and type in configurations and sweeps; ends with 2 if there is one"""
    p.add_argument("configs", nargs="+", metavar="C", help="configurations; key=value among them changes all")
    _modules(p)


def _diff(p: argparse.ArgumentParser) -> None:
    """the values in which two configurations differ, defaults included"""
    p.add_argument("first", metavar="A", help="a configuration")
    p.add_argument("second", metavar="B", help="another one")
    _modules(p)
    _json(p)


def _schema(p: argparse.ArgumentParser) -> None:
    """everything that a configuration may hold, as Markdown"""
    p.add_argument("--md", action="store_true", help=argparse.SUPPRESS)
    _modules(p)


def _keys(p: argparse.ArgumentParser) -> None:
    """what may stand at a place: keys with defaults, components, names"""
    p.add_argument(
        "path", nargs="?", default="", metavar="PLACE", help="train, criterion, criterion.mined, … (default: all)"
    )
    _modules(p)
    _json(p)


COMMANDS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "ls": _ls,
    "cp": _cp,
    "show": _show,
    "check": _check,
    "diff": _diff,
    "schema": _schema,
    "keys": _keys,
}


def _json(p: argparse.ArgumentParser) -> None:
    add_json(p, "print JSON instead of a table")


def _modules(p: argparse.ArgumentParser) -> None:
    add_modules(p)
    add_traceback(p)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what the command needs: help must not wait for torch."""
    args = parser().parse_args(argv)
    from segtrain.cli.common import guarded
    from segtrain.cli.config import files as config_files

    if args.command in ("ls", "cp"):
        commands: dict[str, Callable[[argparse.Namespace], int]] = {"ls": config_files.ls, "cp": config_files.cp}
    else:
        from segtrain.cli.config import values

        commands = {
            "show": values.show,
            "check": values.check,
            "diff": values.diff,
            "schema": values.schema,
            "keys": values.keys,
        }
    return guarded(lambda: commands[args.command](args), show_traceback=getattr(args, "traceback", False))
