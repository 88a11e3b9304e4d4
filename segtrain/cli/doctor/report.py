"""All findings of `segtrain doctor`, told."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Iterator

from segtrain.cli.doctor import machine, ranks, software
from segtrain.cli.doctor.finding import NOTE, PROBLEM, Finding

_WIDTH = 110


def run(args: argparse.Namespace) -> int:
    """Look at everything; returns 1 if something is wrong."""
    found = list[Finding]()
    for name, check in _checks(args):
        for finding in _of(name, check):
            found.append(finding)
            if not args.json:
                print("\n".join(_told(finding)), flush=True)
    problems, notes = (sum(one.state == state for one in found) for state in (PROBLEM, NOTE))
    if args.json:
        print(json.dumps([finding._asdict() for finding in found], indent=1))
    else:
        print(f"\n{_number(problems, 'problem')}, {_number(notes, 'note')}")
    return 1 if problems else 0


def _checks(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Iterator[Finding]]]]:
    yield "python", software.python
    yield "packages", software.packages
    yield "imports", software.imports
    yield "cv2", software.owners_of_cv2
    yield "gpu", machine.gpus
    yield "threads", machine.threads
    yield "memory", machine.memory
    yield "limits", machine.limits
    yield "data", machine.data
    yield "disk", lambda: machine.disk(args.dir, measure=not args.quick)
    if not args.quick:
        yield "ranks", lambda: ranks.together("cpu", 2)
    if args.ddp:
        yield "nccl", ranks.all_gpus


def _of(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; one that fails itself is a finding, and the others go on."""
    try:
        yield from check()
    except Exception as error:
        yield Finding(PROBLEM, name, f"cannot be looked at: {type(error).__name__}: {error}", "")


def _told(finding: Finding) -> Iterator[str]:
    head = f"{finding.state:8}{finding.what:10}"
    yield textwrap.fill(finding.seen, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    if finding.remedy:
        yield textwrap.fill(
            finding.remedy,
            _WIDTH,
            initial_indent=" " * len(head) + "→ ",
            subsequent_indent=" " * (len(head) + 2),
            break_on_hyphens=False,
            break_long_words=False,
        )


def _number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
