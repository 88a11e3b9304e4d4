"""`segtrain doctor`: whether this machine and this installation can train, and what to do where they cannot."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtrain.cli.arguments import add_json, new_parser

EXAMPLES = """examples:
  tools/doctor.py
  tools/doctor.py --quick --json                 (no disk, no processes: a second or two)
  tools/doctor.py --dir /scratch/runs --ddp      (another disk; all GPUs together through NCCL)
"""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = new_parser(
        "doctor",
        "Look at versions, devices, memory, disk, threads and communication; each finding with its remedy. "
        "Ends with 1 if there is a problem.",
        EXAMPLES,
    )
    p.add_argument("--dir", type=Path, default=Path(), metavar="DIR", help="where runs will be written (here)")
    p.add_argument("--ddp", action="store_true", help="an all-reduce of all GPUs through NCCL as well")
    p.add_argument("--quick", action="store_true", help="leave out the speed of disks and the processes")
    add_json(p, "print JSON instead of lines")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, then look; a torch that cannot be imported is a finding like others."""
    args = parser().parse_args(argv)
    from segtrain.cli.doctor.report import run

    try:
        return run(args)
    except KeyboardInterrupt:
        return 130
