"""The loop: steps, and what happens every so often between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import torch
from torch import nn

from segtrain.distributed import Vote, share_buffers, sum_over_ranks
from segtrain.errors import TrainingError
from segtrain.learner import Learner
from segtrain.memory import in_use, memory_for
from segtrain.metrics.churn import Churn
from segtrain.metrics.evaluation import Evaluation, of_both
from segtrain.observers.observer import Observer
from segtrain.parallel import whole_on_every_rank
from segtrain.samples import SampleLosses
from segtrain.task import Batch
from segtrain.transfer import Transfer
from segtrain.upsampling import Logits

SMALLER_STEP = (
    "Halve data.batch_size and double train.accumulate (about the same step in less memory), crop smaller in "
    "data.augment, or use train.amp=bf16"
)


class Batches(Protocol):
    """Training batches without end, from any position counted over all epochs."""

    @property
    def batches_per_epoch(self) -> int: ...

    def start(self, batch: int) -> Iterator[Batch]: ...


Evaluate = Callable[[nn.Module, int], Evaluation]
Save = Callable[[str, dict[str, Any]], None]  # (name of the checkpoint, state); every rank calls it


@dataclass(frozen=True)
class Every:
    """Intervals in finished optimizer steps. The last step always evaluates and saves."""

    log: int
    validate: int
    save: int
    mining: int = 1  # between close looks at what is mined, which are part of a log


@dataclass
class Best:
    """The best value of the monitored metric so far; NaN is never best."""

    metric: str
    value: float = -math.inf
    step: int = -1

    def improves(self, value: float, step: int) -> bool:
        """Take `value` if it beats what is held (an undefined one never does), and say whether it did."""
        if not value > self.value:
            return False
        self.value, self.step = value, step
        return True


class Interrupted(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The run was asked to stop; it has saved its state."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class Trainer:
    """Takes the learner from where it stands to `steps` finished steps."""

    def __init__(
        self,
        learner: Learner,
        batches: Batches,
        *,
        steps: int,
        every: Every,
        accumulate: int = 1,
        transfer: Transfer,
        evaluate: Evaluate,
        judge_ema: bool = False,
        monitor: str = "val/miou",
        save: Save,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.learner = learner
        self.batches = batches
        self.steps = steps
        self.every = every
        self.accumulate = accumulate
        self.transfer = transfer
        self.evaluate = evaluate
        self.judge_ema = judge_ema and learner.ema is not None
        self.save = save
        self.observers = observers
        self.samples = SampleLosses(learner.criterion)
        self.best = Best(monitor)
        self.churn = Churn()
        self.logged: float = 0  # the step of the last log
        self.learnt = 0  # the last step that is known to have had a label
        self.stop_signal = 0  # set by a signal handler: the current step is finished, the state is saved

    def run(self) -> Best:
        """Train to the end. Raises Interrupted after a stop signal, TrainingError when the loss is not finite."""
        clock = Clock(self.transfer.device)
        learner, vote = self.learner, Vote()
        if learner.step > self.learnt:  # what a resumed run logs first has sums from before
            self.logged, self.learnt = -math.inf, learner.step
        source = self.batches.start((learner.step + learner.skipped) * self.accumulate)
        while learner.step < self.steps:
            with clock.waiting():
                batches = [self.transfer(batch) for batch in islice(source, self.accumulate)]
            before = learner.step
            logits = self._update(batches)
            clock.count(sum(len(batch.ids) for batch in batches))
            step, last, moved = learner.step, learner.step == self.steps, learner.step > before
            if moved and self.observers:
                self.samples.see(logits, batches[-1], step)
            if moved and (last or step % self.every.log == 0):
                self._log(clock, logits, batches[-1])
            del logits, batches  # a full-resolution tensor must not live through the next step
            if moved and (last or step % self.every.validate == 0):
                self._validate()
                clock.restart()
            stop = vote(self.stop_signal)  # several ranks have to stop at one step
            if stop or (moved and (last or step % self.every.save == 0)):
                self._save("last")
            if stop and not last:
                raise Interrupted(stop)
        vote.finish()
        return self.best

    def _update(self, batches: Sequence[Batch]) -> Logits:
        def what() -> str:
            return f"a step on {' and '.join(batch.in_words() for batch in batches)}"

        with memory_for(what, self.transfer.device, SMALLER_STEP):
            return self.learner.update(batches)

    def _log(self, clock: Clock, logits: Logits, batch: Batch) -> None:
        looked = self._look(logits, batch)
        scalars = self.learner.read_logs({**looked, **clock.images_of_all_ranks()})
        self._refuse_empty_epoch(scalars["train/empty_batches"])
        scalars = {tag: value for tag, value in scalars.items() if tag not in looked or not math.isnan(value)}
        scalars |= clock.read(scalars.pop("images")) | in_use(self.transfer.device)
        samples = self.samples.read()
        for observer in self.observers:
            observer.on_step(self.learner.step, scalars)
            observer.on_samples(self.learner.step, samples)

    def _look(self, logits: Logits, batch: Batch) -> dict[str, torch.Tensor]:
        """What is mined of the last batch of the step, if it is time for a close look; scalars on the device."""
        step, every = self.learner.step, self.every
        if step < self.steps and step // every.mining == max(0, step - every.log) // every.mining:
            return {}
        seen = self.learner.criterion.inspect(logits, batch.target, step - 1, over_ranks=True)  # as the loss was
        return {} if seen is None else seen.scalars

    def _refuse_empty_epoch(self, empty: float) -> None:
        """Raise TrainingError when no batch since an epoch or more had a label to learn from."""
        step = self.learner.step
        if empty < (step - self.logged) * self.accumulate:
            self.learnt = step
        self.logged = step
        if step > self.learnt and (step - self.learnt) * self.accumulate >= self.batches.batches_per_epoch:
            raise TrainingError(
                f"step {step}: a whole epoch held nothing but ignored pixels ({step - self.learnt} steps), so nothing "
                "is learnt. See what the network is given: tools/data.py browse CONFIG --augmented; and what is wrong "
                "with the labels: tools/data.py check CONFIG --all"
            )

    def _validate(self) -> None:
        self.learner.guard.check()  # weights that saw a NaN are not worth an evaluation, nor a checkpoint
        step, ema = self.learner.step, self.learner.ema
        report = self._evaluated(self.learner.model)
        if ema is not None:
            report = of_both(report, self._evaluated(ema.module), averaged_decides=self.judge_ema)
        report = replace(report, scalars={**report.scalars, **self.churn(report.probes)})
        is_best = self.best.improves(report.scores().get(self.best.metric, math.nan), step)
        for observer in self.observers:
            observer.on_evaluation(step, report)
        if is_best:
            self._save("best")

    def _evaluated(self, model: nn.Module) -> Evaluation:
        share_buffers(model)  # what is judged is what rank 0 saves
        with whole_on_every_rank(model):
            return self.evaluate(model, self.learner.step)

    def _save(self, name: str) -> None:
        self.learner.guard.check()
        self.save(name, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The learner's state and the best value so far: all that a resumed run needs besides its configuration.

        Every rank calls it.
        """
        best = [self.best.metric, self.best.value, self.best.step]
        return {**self.learner.state_dict(), "best": best, "mined": self.churn.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`. A best value of another metric is forgotten."""
        self.learner.load_state_dict(state)
        self.churn.load_state_dict(state.get("mined"))
        metric, value, step = state["best"]
        if metric == self.best.metric:
            self.best = Best(metric, value, step)


class Clock:
    """Wall time between logs: per step, per image, and the share spent waiting for data."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Forget what was measured; for pauses that are not training."""
        self.began, self.waited, self.images, self.steps = time.perf_counter(), 0.0, 0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A context whose time counts as waiting for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def count(self, images: int) -> None:
        """One more step, of `images` images on this rank."""
        self.images += images
        self.steps += 1

    def images_of_all_ranks(self) -> dict[str, torch.Tensor]:
        """How many there were since the last read, to be read with other things."""
        here = torch.full((), self.images, dtype=torch.float64, device=self.device)
        return {"images": sum_over_ranks(here)}

    def read(self, images: float) -> dict[str, float]:
        """The scalars since the last read, in which all ranks together saw `images`."""
        elapsed = time.perf_counter() - self.began
        scalars = {
            "perf/img_per_s": images / elapsed,
            "perf/step_s": elapsed / max(1, self.steps),
            "perf/data_s": self.waited / max(1, self.steps),
            "perf/data_share": self.waited / elapsed,
        }
        self.restart()
        return scalars
