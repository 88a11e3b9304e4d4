"""`segtrain runs`: what runs have left."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from segtrain.cli import subcommands
from segtrain.cli.arguments import add_json

EXAMPLES = """examples:
  tools/runs.py ls
  tools/runs.py show runs/bootstrap/20261121-001502
  tools/runs.py compare runs/ce/20261121-001502 runs/bootstrap/20261121-001802
  tools/runs.py plot runs/ce/20261121-001502 runs/bootstrap/20261121-001802 --key val/miou
  tools/runs.py clean runs --keep best           (says what it would delete; --yes deletes)
  tools/runs.py report runs/bootstrap/20261121-001502
"""


def parser() -> argparse.ArgumentParser:
    """One subcommand for each thing to do with runs."""
    return subcommands.parser(
        "runs", "List, show, compare, plot, clean up and report what runs have left.", COMMANDS, EXAMPLES
    )


def _ls(p: argparse.ArgumentParser) -> None:
    """the runs below a folder: status, best score, steps, time spent in steps"""
    p.add_argument("root", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="where to look (runs)")
    _table(p)


def _show(p: argparse.ArgumentParser) -> None:
    """one run: status, scores of the last evaluation, environment, files"""
    _runs(p, one=True)
    _table(p)


def _compare(p: argparse.ArgumentParser) -> None:
    """the last evaluations of runs side by side, and what their configurations differ in"""
    _runs(p)
    _table(p)


def _plot(p: argparse.ArgumentParser) -> None:
    """one scalar of runs over the steps, as an SVG file"""
    _runs(p)
    p.add_argument("--key", default="val/miou", metavar="TAG", help="a tag of metrics.csv or steps.jsonl (val/miou)")
    p.add_argument("--out", type=Path, metavar="SVG", help="the file (default: the tag with - for /, here)")


def _clean(p: argparse.ArgumentParser) -> None:
    """delete checkpoints of runs that no process is writing; without --yes only say which"""
    p.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="runs, or folders with runs")
    p.add_argument("--keep", type=kept, default=("best", "last"), metavar="NAMES", help="best, last or best,last")
    p.add_argument("--yes", action="store_true", help="really delete")


def _report(p: argparse.ArgumentParser) -> None:
    """one HTML page about a run that is read without any server or network"""
    _runs(p, one=True)
    p.add_argument("--out", type=Path, metavar="HTML", help="the file (default: report.html in the run)")


COMMANDS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "ls": _ls,
    "show": _show,
    "compare": _compare,
    "plot": _plot,
    "clean": _clean,
    "report": _report,
}


def _runs(p: argparse.ArgumentParser, *, one: bool = False) -> None:
    p.add_argument("runs", nargs=1 if one else "+", type=Path, metavar="RUN", help="directory of a run")


def _table(p: argparse.ArgumentParser) -> None:
    add_json(p, "print JSON instead of a table")


def kept(text: str) -> tuple[str, ...]:
    """Names of checkpoints to keep."""
    names = tuple(text.split(","))
    if not set(names) <= {"best", "last"}:
        raise argparse.ArgumentTypeError(f"best, last or best,last is needed, got {text!r}")
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then import what the command needs: help must not wait for torch."""
    args = parser().parse_args(argv)
    from segtrain.cli.common import guarded
    from segtrain.cli.runs.report import report
    from segtrain.cli.runs.tables import clean, compare, ls, plot, show

    commands = {"ls": ls, "show": show, "compare": compare, "plot": plot, "clean": clean, "report": report}
    return guarded(lambda: commands[args.command](args))
