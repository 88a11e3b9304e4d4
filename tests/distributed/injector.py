"""The command with a fault in one rank: FAULT=what:rank:step. The program that is shipped knows nothing of it.

The fault happens once, and makes the file `fault`: torchrun may then restart the ranks.
"""

import os
import signal
import sys
import time
from pathlib import Path

from torch.distributed.checkpoint.filesystem import FileSystem

from segtrain import checkpoint
from segtrain.cli.train import main, training
from segtrain.data.feed import Source
from segtrain.evaluator import Evaluator
from segtrain.learner import Learner


def inject(what, step):
    def fail(*_, **__):
        Path("fault").touch()
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "hang":
            time.sleep(10_000)
        raise ArithmeticError(f"a fault in {what}")

    def failing_at_a_step(call):
        def called(self, *values, **options):
            return fail() if self.step == step else call(self, *values, **options)

        return called

    if what in ("kill", "step", "hang"):
        Learner.update = failing_at_a_step(Learner.update)
    elif what == "build":
        training.build = fail
    elif what == "check":
        training.check = fail
    elif what == "load":
        Source.__getitem__ = fail
    elif what == "evaluate":
        Evaluator._logits = fail
    elif what == "save":
        checkpoint.save = fail
    else:
        inject_in_shards(what, step)


def inject_in_shards(what, step):
    """kill -9 in the save of a sharded checkpoint, after `step` steps."""

    def killed_at_the_step(owner, name, part=""):
        call = getattr(owner, name)

        def called(*values, **options):
            if f"step-{step}.shards" in str(values) and part in str(values):
                Path("fault").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*values, **options)

        setattr(owner, name, called)

    if what == "write a shard":
        killed_at_the_step(FileSystem, "create_stream")
    elif what == "name the folder":
        killed_at_the_step(os, "replace", ".shards.tmp")
    elif what == "write the rest":
        killed_at_the_step(os, "replace", ".shards.pt.tmp")
    elif what == "make it the last":
        killed_at_the_step(checkpoint, "link")


if __name__ == "__main__":
    what, rank, step = os.environ["FAULT"].split(":")
    if os.environ["RANK"] == rank and not Path("fault").exists():
        inject(what, int(step))
    sys.exit(main())
