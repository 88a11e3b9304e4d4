"""Commands that have commands: `segtrain data check`, `segtrain runs ls`, …"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

Adds = Callable[[argparse.ArgumentParser], None]  # flags to the parser of a subcommand; its docstring is the help


def parser(prog: str, description: str, commands: Mapping[str, Adds], examples: str) -> argparse.ArgumentParser:
    """A parser with a subcommand for each of `commands`, each with its own lines of the examples."""
    p = argparse.ArgumentParser(
        prog=prog, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subcommands = p.add_subparsers(dest="command", required=True, metavar="command")
    for name, add in commands.items():
        add(
            subcommands.add_parser(
                name,
                help=add.__doc__,
                description=add.__doc__,
                epilog=_of(name, examples),
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return p


def _of(command: str, examples: str) -> str:
    shown = [line for line in examples.splitlines() if f".py {command} " in f"{line} "]
    return "\n".join(["examples:" if len(shown) > 1 else "example:", *shown]) if shown else ""
