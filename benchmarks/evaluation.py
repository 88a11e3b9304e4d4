"""Evaluating a model: segtrain's evaluator against the loops that people write with torchmetrics.

    OMP_NUM_THREADS=1 SEGTRAIN_DATA=… python benchmarks/evaluation.py --rounds 5

The same weights over the same batches, read before the clock starts, in turn. The evaluator also computes the loss. The
torchmetrics loops take softmax and argmax of the logits: one in float32 and torch's own layout, as a script without
further thought has it, the others in the precision and layout of the run; "as fast as it goes" takes argmax alone and
checks no arguments. Ratios are medians over rounds of a loop's time by the evaluator's in the same round.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from datetime import date
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

from segtrain.build import Built, build, register_components
from segtrain.config import load
from segtrain.evaluator import Evaluator
from segtrain.precision import Precision
from segtrain.task import Batch

CONFIGS = Path(__file__).parents[1] / "configs"


def loops(built: Built, batches: list[Batch]) -> dict[str, Callable[[], float]]:
    task, model, precision = built.task, built.learner.model.eval(), built.learner.precision
    k, ignored = task.num_classes, task.ignore_index
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    evaluator = Evaluator(batches, task, built.learner.criterion, precision=precision)

    @torch.no_grad()
    def jaccard(softmax: bool) -> float:
        metric = MulticlassJaccardIndex(k, ignore_index=ignored, average="macro", validate_args=softmax)
        for batch in batches:
            with precision.autocast():
                logits = model(batch.image)
            prediction = logits.float().softmax(1).argmax(1) if softmax else logits.argmax(1)
            metric.update(prediction, batch.target.long())
        return float(metric.compute())

    @torch.no_grad()
    def mean_iou(model: nn.Module, precision: Precision) -> float:
        metric = MeanIoU(k + 1, input_format="index")  # it has no ignore_index: void becomes a class of its own
        for batch in batches:
            with precision.autocast():
                logits = model(batch.image)
            target = batch.target.long()
            valid = target != ignored
            prediction = torch.where(valid, logits.float().softmax(1).argmax(1), k)
            metric.update(prediction, torch.where(valid, target, k))
        return float(metric.compute())

    return {
        "segtrain": lambda: evaluator(model, 0).scalars["val/miou"],
        "torchmetrics MeanIoU, float32 NCHW": lambda: mean_iou(plain, Precision(precision.device, "off")),
        "torchmetrics MeanIoU, same precision": lambda: mean_iou(model, precision),
        "torchmetrics MulticlassJaccardIndex": lambda: jaccard(True),
        "the same, as fast as it goes": lambda: jaccard(False),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--images", type=int, default=16)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--arch", default="fpn")
    p.add_argument("--amp", default="auto")
    args = p.parse_args()
    warnings.filterwarnings("ignore")
    register_components()
    overrides = [f"train.amp='{args.amp}'", f"model.arch={args.arch}", "data.workers=0", "log.pictures=0"]
    built = build(*load(CONFIGS / "camvid.yaml", [*overrides, f"data.val_batch_size={args.batch}"]), device())
    batches = [batch.to(device()) for batch in islice(built.evaluator.loader, args.images // args.batch)]
    timed(built, batches, args)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(built: Built, batches: list[Batch], args: argparse.Namespace) -> None:
    variants = loops(built, batches)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    scores = {}
    for turn in range(args.rounds + 1):
        for name, loop in variants.items():
            began = time.perf_counter()
            scores[name] = loop()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    images = sum(len(batch.ids) for batch in batches)
    print("| loop | img/s | ratio | mIoU |\n|---|---|---|---|")
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, seconds["segtrain"], strict=True))
        print(f"| {name} | {images / statistics.median(times):.2f} | {ratio:.2f} | {scores[name]:.4f} |")
    height, width = batches[0].image.shape[-2:]
    print(
        f"\n{args.arch} / resnet18, {images} images {width}x{height}, CamVid, amp {built.learner.precision.amp}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {date.today()}"
    )


if __name__ == "__main__":
    main()
