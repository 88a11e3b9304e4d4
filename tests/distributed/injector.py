"""The command with a fault in one rank: FAULT=what:rank:step. The program that is shipped knows nothing of it.

The fault happens in the first attempt only: torchrun may then restart the ranks.
"""

import os
import signal
import sys

from segtrain import checkpoint
from segtrain.cli.train import main
from segtrain.data.feed import Source
from segtrain.evaluator import Evaluator
from segtrain.learner import Learner


def inject(what, step):
    def failing(call):
        def called(self, *values, **options):
            if what == "kill" and self.step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "step" and self.step == step:
                raise ArithmeticError("a fault in the step")
            return call(self, *values, **options)

        return called

    def raising(*_, **__):
        raise ArithmeticError(f"a fault in {what}")

    if what in ("kill", "step"):
        Learner.update = failing(Learner.update)
    elif what == "load":
        Source.__getitem__ = raising
    elif what == "evaluate":
        Evaluator._logits = raising
    elif what == "save":
        checkpoint.save = raising


if __name__ == "__main__":
    what, rank, step = os.environ["FAULT"].split(":")
    if os.environ["RANK"] == rank and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        inject(what, int(step))
    sys.exit(main())
