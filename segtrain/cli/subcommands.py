"""Commands that have commands: `segtrain data check`, `segtrain runs ls`, …"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from segtrain.cli.arguments import as_called, new_parser

Adds = Callable[[argparse.ArgumentParser], None]  # flags to the parser of a subcommand; its docstring is the help


def parser(name: str, about: str, commands: Mapping[str, Adds], examples: str) -> argparse.ArgumentParser:
    """A parser with a subcommand for each of `commands`, each with its own lines of the examples."""
    p = new_parser(name, about, examples)
    subcommands = p.add_subparsers(dest="command", required=True, metavar="command")
    for command, add in commands.items():
        add(
            subcommands.add_parser(
                command,
                help=add.__doc__,
                description=add.__doc__,
                epilog=as_called(_of(command, examples)),
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return p


def parsed(p: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may also stand after and between flags, which argparse does not see in subcommands."""
    args, rest = p.parse_known_args(argv)
    flags = [word for word in rest if word.startswith("-") or "=" not in word]
    if flags or (rest and not hasattr(args, "overrides")):
        p.error(f"unrecognized arguments: {' '.join(flags or rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def _of(command: str, examples: str) -> str:
    shown = [line for line in examples.splitlines() if f".py {command} " in f"{line} "]
    return "\n".join(["examples:" if len(shown) > 1 else "example:", *shown]) if shown else ""
