"""What `segtrain val` does once its flags are read."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from torch import Tensor

from segtrain import distributed
from segtrain.build import first
from segtrain.cli.data.common import component, watch
from segtrain.cli.folders import main_folder, run_of
from segtrain.cli.loaded import criterion, inference, plain_criterion, trained
from segtrain.cli.val.report import Report, as_json, told, write
from segtrain.data.dataset import Dataset
from segtrain.data.loading import val_loader
from segtrain.errors import ConfigError, UserError
from segtrain.evaluator import Evaluator
from segtrain.losses.criterion import Criterion
from segtrain.metrics.boundary import BoundaryIoU
from segtrain.metrics.images import Answers, ImageScores
from segtrain.task import Batch, Task
from segtrain.trained import Trained


def run(args: argparse.Namespace) -> int:
    """The whole job; returns the exit code."""
    model = trained(args, args.overrides)
    out = distributed.from_main(lambda: args.out or default_folder(args.checkpoint))
    with main_folder(out) as folder:
        report = validate(model, args)
        if folder is not None:
            write(folder, report)
    if distributed.is_main():
        text = json.dumps({**as_json(report), "out": str(out)}) if args.json else "\n".join(told(report, out))
        print(text)
    distributed.stop()
    return 0


def validate(model: Trained, args: argparse.Namespace) -> Report:
    """One pass over the split; every rank looks at a part of it and gets the whole report."""
    task, config, device = model.task, model.config, model.precision.device
    args.batch = args.batch or config.data.val_batch_size or config.data.batch_size
    way = inference(args)
    if task.kind == "classification" and way.window:
        raise ConfigError("--window: a classifier looks at whole images; leave --window out")
    data = dataset(model, args.split, args.limit)
    loader = val_loader(
        data,
        model.prepare,
        batch_size=args.batch,
        workers=config.data.workers,
        timeout_s=config.data.timeout,
        rank=distributed.rank(),
        world=distributed.world_size(),
    )
    loss, remark = criterion_of(model)
    outlines, images, answers = Outlines(task, args.boundary, model), ImageScores(task), Answers(task)
    segmentation = task.kind == "segmentation"
    evaluator = Evaluator(
        watch(loader, len(loader)) if distributed.is_main() else loader,
        task,
        loss.to(device),
        precision=model.precision,
        pictures=args.worst,
        inference=way,
        also=[outlines, images] if segmentation else [answers],
    )
    evaluation = evaluator(model.model, model.step)
    return Report(
        evaluation=evaluation,
        checkpoint=args.checkpoint,
        step=model.step,
        weights=config.validate.weights if args.weights == "auto" else args.weights,
        split=args.split,
        samples=len(data),
        way=way.in_words(),
        boundary={width: one.iou() for width, one in outlines.of.items()} if segmentation else {},
        images=images.total(),
        answers=answers.total(),
        remarks=(remark,) if remark else (),
    )


class Outlines:
    """The boundary IoU at several widths."""

    def __init__(self, task: Task, widths: list[int], model: Trained) -> None:
        self.of = {width: BoundaryIoU(task, width, model.precision.device) for width in sorted(set(widths))}

    def update(self, prediction: Tensor, batch: Batch) -> None:
        """Look at the predicted class ids [B, H, W] of a batch."""
        for one in self.of.values():
            one.update(prediction, batch.target)


def dataset(model: Trained, split: str, limit: int | None) -> Dataset:
    """The samples to look at, which must have the classes of the model. Raises UserError."""
    data: Dataset = first(model.maker.make(component(model.config, split)), limit)
    if data.kind != model.task.kind or data.labels.names != model.task.classes:
        raise ConfigError(
            f"data.{split} is a {data.kind} set with the classes {', '.join(data.labels.names)}; the model is one of "
            f"{model.task.kind} with {', '.join(model.task.classes)}; both must be the same, in the same order"
        )
    return data


def criterion_of(model: Trained) -> tuple[Criterion, str]:
    """The criterion of the run, for the loss; or a plain one and a remark, where the run's needs what is not here."""
    try:
        return criterion(model), ""
    except UserError as error:
        plain, name = plain_criterion(model)
        return plain, f"loss is that of {name}, without weights: {error.messages[0]}"


def default_folder(checkpoint: Path) -> Path:
    """A new folder validation/TIME in the run that a checkpoint belongs to, or here."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (f"{stamp}-{count}" if count > 1 else stamp for count in range(1, 1000))
    top = run_of(checkpoint) / "validation"
    return next(path for name in names if not (path := top / name).exists())
