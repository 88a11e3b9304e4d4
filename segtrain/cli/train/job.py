"""One run in its directory: what is written, what is said, how it ends."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from segtrain import checkpoint, distributed, kept, shards
from segtrain.build import Built
from segtrain.cli.stopping import exit_code, on_stop
from segtrain.cli.train.banner import banner, command_text, hyperparameters
from segtrain.config import Config, Source
from segtrain.config.writer import plain_config
from segtrain.errors import UserError
from segtrain.finite import NonFiniteError
from segtrain.maker import Maker
from segtrain.metrics.tags import of_averaged
from segtrain.observers import pictures
from segtrain.observers.console import Console
from segtrain.observers.files import Files
from segtrain.observers.observer import Observer
from segtrain.observers.tensorboard import TensorBoard
from segtrain.parallel import gathered
from segtrain.profiling import heaviest, in_words, unmeasured
from segtrain.registry import OBSERVERS
from segtrain.resume import Start
from segtrain.trainer import Best, Interrupted, Trainer


class Job:
    """One run in its directory: what is written, what is said, how it ends."""

    def __init__(
        self,
        args: argparse.Namespace,
        config: Config,
        source: Source,
        built: Built,
        start: Start,
        notes: list[str],
        labels: str,
    ) -> None:
        self.args, self.config, self.source, self.built, self.start = args, config, source, built, start
        self.run_dir, self.notes, self.labels = start.run, notes, labels
        self.began = time.monotonic()
        self.console: Console | None = None
        self.trainer = Trainer(
            built.learner,
            built.loader,
            steps=built.steps,
            every=built.every,
            accumulate=config.train.accumulate,
            transfer=built.transfer,
            evaluate=built.evaluator,
            judge_ema=config.validate.weights == "ema",
            monitor=config.monitor,
            save=self.save,
        )

    def run(self) -> int:
        """Train; leave a status that tells the truth however it ends."""
        if self.start.state is not None:
            assert self.start.checkpoint is not None
            parameters = dict(self.built.learner.model.named_parameters())
            self.trainer.load_state_dict(shards.read(self.start.checkpoint, self.start.state, parameters))
        if distributed.is_main():
            self.run_dir.start(self.source.to_yaml())
        with on_stop(self.stop):
            try:
                if distributed.is_main():
                    self.open()
                best = self.train()
            except Interrupted as stop:
                self.end("interrupted", f"stopped by signal {stop.signal}; --resume auto goes on from here")
                return exit_code(stop.signal)
            except BaseException as error:
                if isinstance(error, NonFiniteError):
                    self.keep(error)
                self.end("failed", None, error=f"{type(error).__name__}: {error}")
                raise
            self.end("finished", self.farewell(best))
        if distributed.is_main():
            print(json.dumps(self.result("finished")))
        return 0

    def stop(self, number: int) -> None:
        """Let the step finish, save and end; what a signal asks for."""
        self.trainer.stop_signal = number
        print("stopping after this step; the same signal again ends at once", file=sys.stderr)

    def keep(self, error: NonFiniteError) -> None:
        """Save the batches that a non-finite gradient came from, to be looked at; they are told in `error`."""
        if not distributed.is_main():
            return
        path, count = self.run_dir.path / "nan-batch.pt", self.config.train.accumulate
        with contextlib.suppress(UserError, OSError):  # that this fails must not hide the reason
            batches = [
                {"rank": rank, "ids": list(batch.ids), "image": batch.image, "target": batch.target}
                for rank in error.ranks
                for batch in self.built.loader.again(error.attempt * count, count, rank)
            ]
            checkpoint.save(path, {"batches": batches})
            error.add(f"the batch is kept in {path}; segtrain.checkpoint.load reads it")

    def open(self) -> None:
        """Tidy up, see that there is room for checkpoints, and begin to tell."""
        folder, weights = self.run_dir.checkpoints, self.built.learner.model.state_dict()
        kept.remove_temporaries(folder)
        self.prune()
        # with averaged weights and two moments four times the weights, and the next is written beside the last
        checkpoint.require_space(folder, 8 * checkpoint.size_of(weights))
        self.status("running")
        self.trainer.observers = self.observers()

    def train(self) -> Best:
        """The trainer's run, under the profiler if asked."""
        if not self.args.profile:
            return self.trainer.run()
        self.trainer.steps = min(self.trainer.steps, self.trainer.learner.step + self.args.profile)
        first = self.trainer.learner.step
        with torch.profiler.profile() as measured:
            self.trainer.evaluate = unmeasured(measured, self.trainer.evaluate)
            best = self.trainer.run()
        if not distributed.is_main():
            return best
        path = self.run_dir.path / "profile.json"
        measured.export_chrome_trace(str(path))
        self.say(f"the heaviest parts of {self.trainer.learner.step - first} steps, evaluation aside:")
        for line in in_words(heaviest(measured, self.trainer.learner.step - first)):
            self.say(line)
        self.say(f"trace in {path} (open it in chrome://tracing or ui.perfetto.dev)")
        return best

    def observers(self) -> list[Observer]:
        """The observers of the main rank, told what they need to know about the run."""
        built, step, path = self.built, self.trainer.learner.step, self.run_dir.path
        best = self.trainer.best
        self.console = Console(
            path / "log.txt",
            steps=built.steps,
            start_step=step,
            steps_per_epoch=built.loader.batches_per_epoch / self.config.train.accumulate,
            monitor=best.metric,
            best=(best.value, best.step) if best.step >= 0 else None,
            quiet=self.args.quiet,
        )
        self.console.banner(banner(built, self.source, self.run_dir, self.labels))
        if self.start.checkpoint is not None:
            rest = "" if step < built.steps else ": it is complete, and a larger train.steps would go on"
            self.console.line(f"resume from {self.start.checkpoint} at step {step}{rest}")
        elif self.args.resume == "auto":
            place = self.args.run_dir or path.parent
            self.console.line(f"resume nothing: there is no checkpoint in {place}, so a new run begins")
        for note in self.notes:
            self.console.line(f"       {note}")
        for warning in built.warnings:
            self.console.line(f"warning: {warning}")
        texts = {"config": f"```yaml\n{self.source.to_yaml()}```", "command": command_text()}
        metrics = [best.metric] + [of_averaged(best.metric)] * (built.learner.ema is not None)
        board = TensorBoard(
            path / "tb", built.task, start_step=step, texts=texts, hparams=hyperparameters(built), metrics=metrics
        )
        for at in (step, self.next_epoch()):
            if at < built.steps or at == step:
                board.picture(at, "data/batch", self.batch_after(at))
        maker = Maker(self.source)
        maker.context[OBSERVERS] = (path, built.task)
        own = [maker.make(component) for component in self.config.log.observers]
        return [self.console, Files(path, built.task, start_step=step), board, *own]

    def next_epoch(self) -> int:
        """The finished steps after which the next epoch begins, if none is skipped until then."""
        skipped, accumulate = self.trainer.learner.skipped, self.config.train.accumulate
        position = (self.trainer.learner.step + skipped) * accumulate
        epochs = position // self.built.loader.batches_per_epoch + 1
        return -(-epochs * self.built.loader.batches_per_epoch // accumulate) - skipped

    def batch_after(self, step: int) -> npt.NDArray[np.uint8]:
        """What the network will see after `step` finished steps, augmented, as a picture."""
        position = (step + self.trainer.learner.skipped) * self.config.train.accumulate
        (batch,) = self.built.loader.again(position, 1)
        images, targets = batch.image.permute(0, 2, 3, 1).numpy(), batch.target.numpy()
        return pictures.batch(images, targets, batch.ids, self.built.task)

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Publish a checkpoint: `best`, always whole, or a numbered one that `last` then means. Every rank calls it."""
        began = time.monotonic()
        file = self.run_dir.checkpoints / ("best.pt" if name == "best" else f"step-{self.trainer.learner.step}.pt")
        if name == "best":
            state = gathered(state)
        elif shards.are_in(state):
            folder = file.with_suffix(shards.SUFFIX)
            file, state = file.with_suffix(f"{shards.SUFFIX}.pt"), shards.write(folder, state)
        if not distributed.is_main():
            return
        task = self.built.task
        complete = {
            **state,
            "config": made_from(self.config, self.args),
            "task": {
                "kind": task.kind,
                "classes": list(task.classes),
                "palette": [list(c) for c in task.palette],
                "ignore_index": task.ignore_index,
                "link": self.built.learner.criterion.link,
            },
        }
        checkpoint.save(file, complete)
        if name == "last":
            checkpoint.link(file, file.with_name("last.pt"))
            self.prune()
        self.status("running")
        if slow := too_slow_to_stop(time.monotonic() - began):
            self.remark(slow)

    def prune(self) -> None:
        """Delete the oldest checkpoints beyond those to keep."""
        keep, step = self.config.checkpoint.keep_last, self.trainer.learner.step
        for problem in kept.prune(self.run_dir.checkpoints, keep, step):
            self.say(f"warning: {problem}")

    def result(self, status: str) -> dict[str, Any]:
        """The last line of a run."""
        return {"status": status, "best": self.best(), "run": str(self.run_dir.path)}

    def status(self, status: Any, **facts: Any) -> None:
        """What `status.json` says now."""
        step = self.trainer.learner.step
        self.run_dir.write_status(status, step=step, steps=self.built.steps, best=self.best(), **facts)

    def best(self) -> dict[str, Any] | None:
        """The best evaluation so far, None before there is one; and if it is of averaged weights, that it is."""
        best, averaged = self.trainer.best, {"weights": "ema"} if self.trainer.judge_ema else {}
        return {best.metric: best.value, "step": best.step, **averaged} if best.step >= 0 else None

    def end(self, status: str, words: str | None, **facts: Any) -> None:
        """Last words, on the main rank."""
        if not distributed.is_main():
            return
        with contextlib.suppress(OSError):  # a full disk must not hide the reason
            self.status(status, **facts)
        if words:
            self.say(words)
        for observer in self.trainer.observers:
            observer.close()

    def farewell(self, best: Best) -> str:
        """What the run came to, for people."""
        minutes, seconds = divmod(round(time.monotonic() - self.began), 60)
        of = " (ema)" if self.trainer.judge_ema else ""
        score = f" · {best.metric} {best.value:.4f}{of} at step {best.step}" if best.step >= 0 else ""
        result = self.run_dir.checkpoints / ("best.pt" if best.step >= 0 else "last.pt")
        return f"done   {minutes}m{seconds:02d}s{score} · {result}"

    def remark(self, text: str) -> None:
        """Warn of something, once."""
        if text not in self.notes:
            self.notes.append(text)
            self.say(f"warning: {text}")

    def say(self, text: str) -> None:
        """To the user and the log."""
        if self.console is not None:
            self.console.line(text)


def made_from(config: Config, args: argparse.Namespace) -> dict[str, Any]:
    """What a run is made of and a resume is compared with: configuration, flags that choose its data, ranks."""
    flags = {"limit_train": args.limit_train, "limit_val": args.limit_val, "overfit": args.overfit}
    return {**plain_config(config), "flags": flags, "ranks": distributed.world_size()}


def too_slow_to_stop(seconds: float) -> str | None:
    """What to say if a save that took so long may not be finished when torchrun stops its ranks."""
    patience = float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30"))  # or a flag, which torchrun does not tell
    if not distributed.launched() or seconds < patience / 3:
        return None
    return (
        f"saving takes more than a third of the {patience:g} s that torchrun gives ranks to stop: raise its "
        "--shutdown-timeout, or a stop may cost the steps since the last checkpoint"
    )
