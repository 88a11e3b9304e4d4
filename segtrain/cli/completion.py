"""`segtrain completion`: what makes a shell complete commands, flags and their values after a tabulator."""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from segtrain import cli
from segtrain.cli.arguments import new_parser

EXAMPLES = """examples:
  eval "$(segtrain completion bash)"             (in ~/.bashrc)
  eval "$(segtrain completion zsh)"              (in ~/.zshrc, after compinit)
"""


class Place(NamedTuple):
    """What may come after `segtrain <words>`: flags and commands with their help, and the values that flags take."""

    words: str  # "", "data", "data check"
    flags: dict[str, str]
    values: dict[str, list[str]]  # of flags with a few known values
    commands: dict[str, str]


def parser() -> argparse.ArgumentParser:
    """The shell."""
    p = new_parser(
        "completion",
        "Print a script that makes a shell complete segtrain's commands, flags and their values.",
        EXAMPLES,
    )
    p.add_argument("shell", choices=("bash", "zsh"), help="the shell that reads the script")
    return p


def places() -> Iterator[Place]:
    """Every command and subcommand, as their own parsers describe them."""
    yield Place("", {"--help": "list the commands", "--version": "tell the version"}, {}, dict(cli.COMMANDS))
    for name in cli.COMMANDS:
        yield from _places(name, importlib.import_module(f"segtrain.cli.{name}").parser())


def _places(words: str, p: argparse.ArgumentParser) -> Iterator[Place]:
    place, below = Place(words, {}, {}, {}), dict[str, argparse.ArgumentParser]()
    for action in p._actions:
        choices = list(action.choices or ())
        if isinstance(action, argparse._SubParsersAction):
            below = dict(action.choices)
            helps = {one.dest: one.help or "" for one in action._choices_actions}
            place.commands.update({name: helps.get(name, "") for name in below})
        elif not action.option_strings:
            place.commands.update({str(choice): "" for choice in choices})
        elif action.help != argparse.SUPPRESS:
            flag = action.option_strings[-1]  # the long one
            place.flags[flag] = (action.help or "").replace("%%", "%")
            if choices:
                place.values[flag] = list(map(str, choices))
            elif flag == "--device":
                place.values[flag] = ["auto", "cpu", "cuda"]
    yield place
    for name, one in below.items():
        yield from _places(f"{words} {name}", one)


def _walk(known: Sequence[Place], before: str) -> list[str]:
    """Shell code that sets `place` to the command and subcommand among the words before the cursor."""
    lines = ["  local place= word", f"  for word in {before}; do", '    case "$place $word" in']
    for one in known:
        if one.words:
            parent, _, name = one.words.rpartition(" ")
            lines.append(f"      {shlex.quote(f'{parent} {name}')}) place={shlex.quote(one.words)} ;;")
    return [*lines, "    esac", "  done"]


def bash() -> str:
    """For bash 4 or newer; names of files come from its default."""
    known = list(places())
    lines = ["_segtrain() {", "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}"]
    lines += _walk(known, '"${COMP_WORDS[@]:1:COMP_CWORD-1}"')
    lines += ["  local flags= commands= values=", '  case "$place" in']
    for one in known:
        lines.append(f"    {shlex.quote(one.words)})")
        lines.append(f"      flags={shlex.quote(' '.join(one.flags))} commands={shlex.quote(' '.join(one.commands))}")
        if one.values:
            cases = [f"{flag}) values={shlex.quote(' '.join(values))} ;;" for flag, values in one.values.items()]
            lines.append(f'      case "$previous" in {" ".join(cases)} esac')
        lines.append("      ;;")
    lines += [
        "  esac",
        '  if [[ -n $values ]]; then COMPREPLY=($(compgen -W "$values" -- "$current"))',
        '  elif [[ $current == -* ]]; then COMPREPLY=($(compgen -W "$flags" -- "$current"))',
        '  else COMPREPLY=($(compgen -W "$commands" -- "$current")); fi',
        "}",
        "complete -o default -o bashdefault -F _segtrain segtrain",
    ]
    return "\n".join(lines) + "\n"


def zsh() -> str:
    """For zsh, with the help of each command and flag."""
    known = list(places())
    lines = ["#compdef segtrain", "_segtrain() {"]
    lines += _walk(known, '"${(@)words[2,CURRENT-1]}"')
    lines += ["  local -a flags commands values", '  case "$place" in']
    for one in known:
        lines.append(f"    {shlex.quote(one.words)})")
        lines += [f"      {name}=({_described(what)})" for name, what in one._asdict().items() if name in _DESCRIBED]
        if one.values:
            cases = [f"{flag}) values=({shlex.join(values)}) ;;" for flag, values in one.values.items()]
            lines.append(f'      case "$words[CURRENT-1]" in {" ".join(cases)} esac')
        lines.append("      ;;")
    lines += [
        "  esac",
        "  if (( $#values )); then compadd -a values",
        "  elif [[ $words[CURRENT] == -* ]]; then _describe flag flags",
        "  else (( $#commands )) && _describe command commands || _files; fi",
        "}",
        "compdef _segtrain segtrain",
    ]
    return "\n".join(lines) + "\n"


_DESCRIBED = ("flags", "commands")


def _described(helps: Mapping[str, str]) -> str:
    return " ".join(shlex.quote(f"{name}:{text}") for name, text in helps.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Print the script; nothing here needs torch."""
    print({"bash": bash, "zsh": zsh}[parser().parse_args(argv).shell](), end="")
    return 0
