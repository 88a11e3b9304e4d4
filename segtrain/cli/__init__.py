"""The commands. `segtrain <command>` is the same as `tools/<command>.py`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from segtrain.errors import did_you_mean

# for torch, which is imported later: pages of 2 MiB for fresh tensors; faults of 4 KiB take 5 % of a step on a CPU
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_EXAMPLES = """
examples:
  segtrain config ls
  segtrain config cp bootstrap my.yaml
  segtrain train --config my.yaml
  eval "$(segtrain completion bash)"      (completes commands and flags)"""

COMMANDS = {
    "train": "train a model from a configuration",
    "sweep": "train variants with several seeds and compare them",
    "runs": "list, show, compare, plot, clean up and report what runs have left",
    "mining": "what mining selects at any p, and labels that are probably wrong",
    "val": "validate a trained model, class by class and image by image",
    "predict": "say what a trained model sees in images: label maps, or names",
    "export": "export a trained model to ONNX, torch.export or safetensors, compared with the model",
    "config": "list, copy, show, check, compare and explain configurations",
    "data": "check, count, show, divide, convert or make up data",
    "bench": "measure loader, model and step, and say what to change next",
    "tune": "find a learning rate and a batch size to start with",
    "doctor": "look at the machine and the installation, with remedies",
    "completion": "make a shell complete commands and flags",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A command is imported when it is named, so that help is quick."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        module = importlib.import_module(f"segtrain.cli.{arguments[0]}")
        code: int = module.main(arguments[1:])
        return code
    if arguments == ["--version"]:
        from segtrain import __version__

        print(f"segtrain {__version__}")
        return 0
    if arguments not in ([], ["-h"], ["--help"]):
        hint = did_you_mean(arguments[0], COMMANDS, limit=len(COMMANDS))
        print(f"error: segtrain {arguments[0]}: there is no such command{hint}", file=sys.stderr)
        return 2
    print("usage: segtrain <command> [options]   (segtrain <command> --help)\n")
    print("\n".join(f"  {name:10} {what}" for name, what in COMMANDS.items()))
    print(_EXAMPLES)
    return 0
