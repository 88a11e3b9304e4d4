"""What a training step costs in segtrain, a bare loop, torchvision's style, Lightning and Hugging Face's Trainer.

    OMP_NUM_THREADS=1 python benchmarks/step.py --rounds 60
    OMP_NUM_THREADS=1 python benchmarks/step.py --rounds 400 --only segtrain
    OMP_NUM_THREADS=1 SEGTRAIN_DATA=… python benchmarks/step.py --data camvid --rounds 30

All train the same model on the same batches with the same optimizer, clipping, schedule and precision. The loops live
in one process and take turns, one step each: each runs in a thread that waits for its turn when it asks for a batch,
and its step ends when it asks for the next one. A ratio is the median over rounds of this loop's time by the bare
loop's time in the same round, with a bootstrap interval of 95 %. Lightning and transformers are left out where they are
not installed (pip install lightning transformers accelerate).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from segtrain.build import Built, build, register_components
from segtrain.config import load
from segtrain.observers.console import Console
from segtrain.observers.files import Files
from segtrain.observers.tensorboard import TensorBoard
from segtrain.task import Batch
from segtrain.trainer import Every, Trainer

CONFIGS = Path(__file__).parents[1] / "configs"
COMMON = ("train.ema=null", "validate.weights=raw", "data.workers=0", "schedule={name: poly, power: 0.9}")
PLAIN = "criterion={name: cross_entropy}"
BARE = "bare loop"
IGNORE = 255


class Turns:
    """Loops in threads of their own, of which one at a time makes a step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = {}
        self._go: dict[str, threading.Semaphore] = {}
        self._done = threading.Semaphore(0)
        self._ended: set[str] = set()

    def feed(self, name: str, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, each handed out when it is this loop's turn; a step ends when the next one is asked for."""
        while True:
            self._done.release()
            self._go[name].acquire()
            began = time.perf_counter()
            yield next(batches)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds[name].append(time.perf_counter() - began)

    def run(self, loops: dict[str, Callable[[], None]], rounds: int) -> None:
        """Let each loop set up, then make `rounds` steps in turn; the first of a round is another one each time."""
        for name, loop in loops.items():
            self.seconds[name], self._go[name] = [], threading.Semaphore(0)
            threading.Thread(target=self._thread, args=(name, loop), daemon=True).start()
            self._done.acquire()
        names = list(loops)
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                if name not in self._ended:
                    self._go[name].release()
                    self._done.acquire()

    def _thread(self, name: str, loop: Callable[[], None]) -> None:
        try:
            loop()
        finally:
            self._ended.add(name)
            self._done.release()


class Sized:
    """An iterable with a length, for loops that want to know how long an epoch is."""

    def __init__(self, batches: Iterator[Batch], length: int) -> None:
        self.batches, self.length = batches, length

    def __iter__(self) -> Iterator[Batch]:
        return self.batches

    def __len__(self) -> int:
        return self.length


def with_loss(model: nn.Module) -> nn.Module:
    """The model as others want it: with the loss inside."""

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": F.cross_entropy(self.model(image).float(), target.long(), ignore_index=IGNORE)}

    return WithLoss()


def decay(steps: int) -> Callable[[int], float]:
    return lambda step: (1 - min(step, steps - 1) / steps) ** 0.9


def bare(built: Built, feed: Iterator[Batch], steps: int, *, read_loss: bool = False) -> None:
    """The loop that every tutorial has; with `read_loss` as torchvision's references have it, a number every step."""
    learner = built.learner
    model, precision = learner.model, learner.precision
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, decay(steps))
    window: list[float] = []
    model.train()
    for batch in feed:
        batch = batch.to(precision.device, built.transfer.memory_format)
        with precision.autocast():
            logits = model(batch.image)
        loss = F.cross_entropy(logits.float(), batch.target.long(), ignore_index=IGNORE)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if read_loss:
            window.append(loss.item())


def segtrain_loop(built: Built, feed: Iterator[Batch], steps: int, folder: str | None) -> None:
    """The whole trainer; with a folder also everything that a run writes between evaluations."""

    class Given:
        batches_per_epoch = 40

        def start(self, batch: int) -> Iterator[Batch]:
            return feed

    every = Every(log=20, validate=10**9, save=10**9)
    observers = []
    if folder is not None:
        path = Path(folder)
        console = Console(path / "log.txt", steps=steps, steps_per_epoch=40, monitor="val/miou", quiet=True)
        observers = [console, Files(path, built.task), TensorBoard(path / "tb", built.task)]
    Trainer(
        built.learner,
        Given(),
        steps=steps,
        every=every,
        transfer=built.transfer,
        evaluate=built.evaluator,
        save=lambda name, state: None,
        observers=observers,
    ).run()


def lightning_loop(built: Built, feed: Iterator[Batch], steps: int) -> None:
    import lightning

    model = with_loss(built.learner.model)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Batch, index: int) -> torch.Tensor:
            image = batch.image.contiguous(memory_format=built.transfer.memory_format)
            loss: torch.Tensor = self.model(image, batch.target)["loss"]
            self.log("loss", loss)
            return loss

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            # by hand: its own clipping and fused optimizers exclude each other under mixed precision
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)

        def configure_optimizers(self) -> dict[str, object]:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, decay(steps))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    amp = built.learner.precision.amp
    lightning.Trainer(
        max_steps=steps,
        precision={"off": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[amp],  # type: ignore[arg-type]
        accelerator="gpu" if built.learner.precision.device.type == "cuda" else "cpu",
        devices=1,
        log_every_n_steps=20,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Module(), Sized(feed, steps))


def hugging_face_loop(built: Built, feed: Iterator[Batch], steps: int) -> None:
    import transformers

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        for batch in feed:
            batch = batch.to(built.learner.precision.device, built.transfer.memory_format)
            yield {"image": batch.image, "target": batch.target}

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self) -> Sized:  # type: ignore[override]
            return Sized(batches(), steps)  # type: ignore[arg-type]

    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=steps,
        learning_rate=1e-3,
        weight_decay=0.01,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=built.learner.precision.amp == "bf16",
        use_cpu=built.learner.precision.device.type == "cpu",
        logging_steps=20,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    Trainer(model=with_loss(built.learner.model), args=arguments, train_dataset=built.train).train()


def make(args: argparse.Namespace, device: torch.device, criterion: str = PLAIN) -> Built:
    sets = {
        "memory": ("bootstrap.yaml", [f"data.augment.0.size=[{args.size},{args.size}]"]),
        "camvid": ("camvid.yaml", [f"data.augment.0.size=[{args.size},{args.size}]", "train.epochs=null"]),
    }
    name, own = sets[args.data]
    overrides = [*COMMON, *own, criterion, f"data.batch_size={args.batch}", f"train.amp={args.amp}"]
    overrides += [f"train.steps={args.rounds + args.warm_up + 1}", "optimizer.lr=1e-3", f"model.arch={args.arch}"]
    config, source = load(CONFIGS / name, overrides)
    return build(config, source, device)


def batches(args: argparse.Namespace, built: Built) -> Iterator[Batch]:
    """One batch in memory again and again, or what the loader of segtrain reads, the same for all."""
    if args.data == "camvid":
        return built.loader.start(0)
    batch = next(built.loader.start(0)).to(built.learner.precision.device)
    return iter(lambda: batch, None)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=60)
    p.add_argument("--warm-up", type=int, default=5)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--size", type=int, default=96)
    p.add_argument("--arch", default="fpn")
    p.add_argument("--amp", choices=("off", "bf16"), default="off")
    p.add_argument("--data", choices=("memory", "camvid"), default="memory")
    p.add_argument("--only", metavar="LOOP", nargs="+", help="no other loops beside the bare one")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args()
    if os.environ.get("MALLOC_ARENA_MAX") != "1":  # threads share one heap, or each would meet another allocator
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_ARENA_MAX": "1"})
    warnings.filterwarnings("ignore")
    register_components()
    device, turns = torch.device(args.device), None
    turns = Turns(device)
    steps = args.rounds + args.warm_up + 1
    folder = tempfile.mkdtemp()
    variants: dict[str, Callable[[Built, Iterator[Batch]], None]] = {
        BARE: lambda built, feed: bare(built, feed, steps),
        "bare loop again": lambda built, feed: bare(built, feed, steps),
        "segtrain": lambda built, feed: segtrain_loop(built, feed, steps, None),
        "segtrain, all logs": lambda built, feed: segtrain_loop(built, feed, steps, folder),
        "torchvision's style": lambda built, feed: bare(built, feed, steps, read_loss=True),
    }
    for name, package, loop in (
        ("Lightning", "lightning", lightning_loop),
        ("Hugging Face Trainer", "transformers", hugging_face_loop),
    ):
        if importlib.util.find_spec(package):
            variants[name] = lambda built, feed, loop=loop: loop(built, feed, steps)  # type: ignore[misc]
    if args.only:
        if unknown := set(args.only) - variants.keys():
            p.error(f"--only {', '.join(sorted(unknown))}: not among {', '.join(variants)}")
        variants = {name: loop for name, loop in variants.items() if name in (BARE, *args.only)}

    def loop_of(name: str) -> Callable[[], None]:
        def loop() -> None:
            built = make(args, device)
            variants[name](built, turns.feed(name, batches(args, built)))

        return loop

    turns.run({name: loop_of(name) for name in variants}, args.rounds + args.warm_up)
    report(args, device, {name: times[args.warm_up :] for name, times in turns.seconds.items()})


def report(args: argparse.Namespace, device: torch.device, seconds: dict[str, list[float]]) -> None:
    rounds = min(map(len, seconds.values()))
    print("| loop | median ms | img/s | ratio to the bare loop, 95 % |\n|---|---|---|---|")
    reference = np.asarray(seconds[BARE][:rounds])
    rng = np.random.default_rng(0)
    draws = rng.integers(0, rounds, (4000, rounds))
    for name, times in seconds.items():
        ratios = np.asarray(times[:rounds]) / reference
        low, high = np.quantile(np.median(ratios[draws], 1), (0.025, 0.975))
        middle = statistics.median(times)
        print(
            f"| {name} | {1000 * middle:.1f} | {args.batch / middle:.1f} | "
            f"{np.median(ratios):.3f} ({low:.3f}–{high:.3f}) |"
        )
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        f"\n{args.arch} / resnet18, batch {args.batch} x {args.size} x {args.size}, {args.data}, amp {args.amp}, "
        f"{card}, {torch.get_num_threads()} threads, torch {torch.__version__}, {rounds} rounds, {date.today()}"
    )


if __name__ == "__main__":
    main()
