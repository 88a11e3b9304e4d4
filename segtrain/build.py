"""From a configuration to objects: with maker.py the only place that knows both."""

from __future__ import annotations

import importlib
import math
import pkgutil
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

import segtrain.data
import segtrain.losses
import segtrain.models
from segtrain import distributed, parallel
from segtrain.compiling import compiled
from segtrain.config import Config, Source
from segtrain.data.combined import Part
from segtrain.data.counting import count_labels
from segtrain.data.dataset import Dataset, checked
from segtrain.data.loading import TrainLoader, train_loader, val_loader
from segtrain.data.transforms import Transform
from segtrain.errors import ConfigError, did_you_mean
from segtrain.evaluator import Evaluator
from segtrain.finite import FiniteGuard
from segtrain.learner import Learner
from segtrain.losses.criterion import Criterion, as_criterion
from segtrain.maker import Maker
from segtrain.metrics.scores import scores_to_maximise
from segtrain.optim import Encoder, parameter_groups
from segtrain.own import import_own
from segtrain.precision import Precision, fast_math, precision
from segtrain.randomness import own_random_numbers, seed_everything
from segtrain.registry import (
    CRITERIA,
    MODELS,
    OPTIMIZERS,
    PIXEL_LOSSES,
    REGION_LOSSES,
)
from segtrain.schedule import Schedule, between, constant, linear, product
from segtrain.task import Batch, Task
from segtrain.trainer import Every
from segtrain.transfer import Transfer

PACKAGES = (segtrain.losses, segtrain.data, segtrain.models)  # every module in them registers what it has
MODULES = ("segtrain.schedule", "segtrain.optim")


def register_components(modules: Sequence[str] = ()) -> None:
    """Fill the registries: with what comes along, then with a user's own modules. Raises ConfigError."""
    for package in PACKAGES:
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for name in MODULES:
        importlib.import_module(name)
    for name in modules:
        import_own(name)


@dataclass(frozen=True)
class Limits:
    """Smaller runs for trying things out: the first samples of each split, or a handful to learn by heart."""

    train: int | None = None
    val: int | None = None
    overfit: int | None = None


@dataclass(frozen=True)
class Built:
    """A run, ready to start."""

    config: Config
    task: Task
    train: Dataset
    val: Dataset
    loader: TrainLoader
    learner: Learner
    evaluator: Evaluator
    steps: int
    every: Every
    transfer: Transfer
    warnings: tuple[str, ...] = ()

    @property
    def global_batch(self) -> int:
        """Samples per optimizer step over all ranks."""
        return self.loader.batch_size * distributed.world_size() * self.config.train.accumulate


def build(config: Config, source: Source, device: torch.device, limits: Limits = Limits()) -> Built:
    """Everything that `config` names, on `device`. Raises UserError with the place in the configuration."""
    seed_everything(config.seed)
    fast_math(device)
    maker = Maker(source)
    train, val = datasets(config, maker, limits)
    distributed.require_same("samples in data.train and data.val:", (len(train), len(val)))
    maker.label_counts = cache(lambda: label_counts(train))
    task = train.labels.task(config.task)
    check_monitor(config.monitor, task, source)
    prepare = maker.transforms(config.data.val_prepare, task.ignore_index)
    loader = training_loader(config, maker, train, prepare if limits.overfit else None)
    steps = run_length(config, loader)
    maker.run_for(steps)
    for registry in (CRITERIA, PIXEL_LOSSES, REGION_LOSSES):
        maker.context[registry] = (task,)
    component = maker.make(config.criterion)
    with maker.at("criterion"):
        criterion = as_criterion(component, task).to(device)
    maker.context[MODELS] = (task.channels(criterion.link),)
    accuracy = precision(config.train.amp, device)
    learner = make_learner(config, maker, criterion, accuracy)
    check_image_head(learner, source)
    evaluator = make_evaluator(config, val, prepare, criterion, accuracy, train)
    intervals = (config.log.every, config.validate.every, config.checkpoint.every, config.log.mining_every)
    every = Every(*(maker.steps(duration) for duration in intervals))
    transfer = Transfer(device, torch.channels_last if channels_last(config) else torch.contiguous_format)
    warnings = (
        *unfinished_warmups(config, maker, criterion, steps),
        *parallel.batch_norm_warnings(learner.model, config.data.batch_size),
        *parallel.restart_warnings(),
        *(nothing_held_out(config) if not limits.overfit else ()),
    )
    own_random_numbers(config.seed)
    return Built(config, task, train, val, loader, learner, evaluator, steps, every, transfer, warnings)


def datasets(config: Config, maker: Maker, limits: Limits) -> tuple[Dataset, Dataset]:
    """The training and the validation set, which must agree on the classes."""
    train = checked(maker.make(config.data.train), "data.train")
    val = checked(maker.make(config.data.val), "data.val")
    for split, dataset in (("train", train), ("val", val)):
        if dataset.kind != config.task:
            raise ConfigError(
                f"{maker.source.where(f'data.{split}.name')}: data.{split} is a {dataset.kind} set, but task is "
                f"{config.task}; choose another dataset or task: {dataset.kind}"
            )
    if train.labels.names != val.labels.names:
        raise ConfigError(
            f"{maker.source.where('data.val')}: data.val has the classes {', '.join(val.labels.names)}, data.train has "
            f"{', '.join(train.labels.names)}; both need the same, in the same order"
        )
    if len(train.labels.names) < 2:
        only = ", ".join(train.labels.names)
        raise ConfigError(
            f"{maker.source.where('data.train')}: data.train has one class, {only}, and nothing to tell it from; "
            f"the background is a class as well: values: {{0: background, 255: {only}}}, or what the labels hold"
        )
    if limits.overfit:
        return first(train, limits.overfit), first(train, limits.overfit)
    return (
        first(train, limits.train),
        first(val, limits.val),
    )


def training_loader(
    config: Config, maker: Maker, train: Dataset, transforms: Sequence[Transform] | None = None
) -> TrainLoader:
    """The batches that a run trains on; `transforms` in place of the augmentation of the configuration."""
    if transforms is None:
        transforms = maker.transforms(config.data.augment, train.labels.ignore_index)
    return train_loader(
        train,
        transforms,
        batch_size=config.data.batch_size,
        workers=config.data.workers,
        timeout_s=config.data.timeout,
        seed=config.seed,
        rank=distributed.rank(),
        world=distributed.world_size(),
    )


def unfinished_warmups(config: Config, maker: Maker, criterion: Criterion, steps: int) -> Iterator[str]:
    """Warnings if the run is over before the learning rate or the mining has reached what it rises to."""
    if config.schedule is not None and maker.steps(config.schedule.warmup) >= steps:
        yield f"schedule.warmup of {maker.steps(config.schedule.warmup)} steps is as long as the run ({steps} steps)"
    reached, wanted = criterion.mined_share(steps - 1), criterion.mined_share(sys.maxsize)
    if reached is not None and wanted is not None and reached > wanted:
        yield (
            f"criterion.warmup is longer than the run: at its last step {reached:.0%} of the valid pixels are mined, "
            f"not {wanted:.0%}; shorten it, or give it as a share of the run such as end: 75%"
        )


def nothing_held_out(config: Config) -> Iterator[str]:
    """What to say if training and validation are the same samples."""
    train, val = config.data.train, config.data.val
    if (train.name, train.params) == (val.name, val.params):
        yield (
            "data.val has the samples of data.train, so its scores say nothing about new images; to divide them: "
            "segtrain data split C --of train --ratio 0.8,0.2 --out lists"
        )


def label_counts(dataset: Dataset) -> list[list[int]]:
    """Two numbers per class, see count_labels; every rank counts a part of the dataset, in its own time."""
    mine = count_labels(dataset, range(distributed.rank(), len(dataset), distributed.world_size()))
    counts: list[list[int]] = np.sum(distributed.of_all_ranks(mine, patient=True), axis=0).tolist()
    return counts


def check_monitor(monitor: str, task: Task, source: Source) -> None:
    """Raise ConfigError if no evaluation will have the monitored scalar, or if less of it is better."""
    known = scores_to_maximise(task)
    if monitor not in known:
        hint = did_you_mean(monitor, known)
        raise ConfigError(
            f"{source.where('validate.monitor')}: validate.monitor: no score to maximise '{monitor}'{hint}"
        )


def check_image_head(learner: Learner, source: Source) -> None:
    """Raise ConfigError unless the model has an image head exactly if a term of the criterion is about it."""
    has = bool(getattr(learner.model, "has_image_head", False))
    if has and not learner.criterion.reads_image_head:
        raise ConfigError(
            f"{source.where('model.aux_params')}: model.aux_params: no term of the criterion is about the image head, "
            "so nothing would train it; add one to a weighted_sum: {name: image_presence}, or leave out aux_params"
        )
    if learner.criterion.reads_image_head and not has:
        raise ConfigError(
            f"{source.where('criterion')}: criterion: image_presence needs a model with an image head; "
            "give model smp one with aux_params: {pooling: avg}"
        )
    if has and not learner.criterion.reads_pixels:
        raise ConfigError(
            f"{source.where('criterion')}: criterion: image_presence alone trains no label map; put it beside another "
            "criterion in a weighted_sum"
        )


def first(dataset: Dataset, count: int | None) -> Dataset:
    """The first `count` samples, or all."""
    return dataset if count is None else Part(dataset, tuple(range(min(count, len(dataset)))))


def run_length(config: Config, loader: TrainLoader) -> int:
    """Optimizer steps of the whole run."""
    if config.train.steps is not None:
        return config.train.steps
    return math.ceil((config.train.epochs or 0) * loader.batches_per_epoch / config.train.accumulate)


def make_learner(config: Config, maker: Maker, criterion: Criterion, accuracy: Precision) -> Learner:
    """Model, optimizer, learning rate and what else a step changes."""
    device = accuracy.device
    model: nn.Module = maker.make(config.model).to(device)
    if config.train.sync_batchnorm:
        with maker.at("train", ["sync_batchnorm"]):
            model = parallel.with_batch_norms_over_ranks(model, device)
    if channels_last(config):
        model = model.to(memory_format=torch.channels_last)
    if config.train.compile and device.type == "cpu":
        criterion.compile_losses()  # on a GPU there are kernels
    ema = averaged(model, config)
    if config.train.strategy == "fsdp":
        for module in [model] + ([ema.module] if ema is not None else []):
            parallel.sharded(module, device)
    with maker.at("optimizer", ("encoder_lr", "freeze_encoder")):
        params = config.optimizer.component.params
        groups = parameter_groups(
            model,
            lr=params["lr"],
            weight_decay=params.get("weight_decay", 0.0),
            encoder_lr=config.optimizer.encoder_lr,
            no_decay=config.optimizer.no_decay,
        )
        encoder = Encoder(model, freeze_encoder=maker.steps(config.optimizer.freeze_encoder))
        maker.context[OPTIMIZERS] = (groups,)
        optimizer = maker.make(config.optimizer.component)
    return Learner(
        model,
        criterion,
        optimizer,
        learning_rate(config, maker),
        precision=accuracy,
        clip_norm=config.optimizer.clip_norm,
        encoder=encoder,
        ema=ema,
        guard=FiniteGuard(config.train.on_nonfinite, config.train.max_nonfinite),
        forward=wrapped(model, config, maker, device),
    )


def averaged(model: nn.Module, config: Config) -> ModelEmaV3 | None:
    """The moving average of a model that is not sharded yet; it can be sharded alike."""
    if config.train.ema is None:
        return None
    together = config.train.strategy == "ddp"  # shards and whole buffers cannot be updated in one call
    return ModelEmaV3(model, decay=config.train.ema.decay, use_warmup=True, warmup_power=0.75, foreach=together)


def wrapped(model: nn.Module, config: Config, maker: Maker, device: torch.device) -> nn.Module:
    """The module whose forward pass trains: compiled if asked, exchanging gradients if there are other ranks."""
    options, forward = config.train, model
    if options.strategy == "fsdp":
        return model
    if options.compile:
        with maker.at("train", ["compile"]):
            forward = compiled(model, options.compile, device)
    return parallel.replicated(
        forward, device, static_graph=options.static_graph, compression=options.gradient_compression
    )


def learning_rate(config: Config, maker: Maker) -> Schedule:
    """The factor on every group's learning rate: a line up during the warm-up, times the decay to its final share."""
    if config.schedule is None:
        return constant()
    decay = between(1.0, config.schedule.final, maker.make(config.schedule.component))
    if decay(0) == 0:
        raise ConfigError(
            f"{maker.source.where('schedule.name')}: schedule: the learning rate would be 0 from the first step on; "
            "write schedule: null for a constant rate, or add final: 1 for a constant rate after the warm-up"
        )
    warmup = maker.steps(config.schedule.warmup)
    if not warmup:
        return decay
    rise = linear(start=0, end=warmup)
    return product([lambda step: rise(step + 1), decay])  # the first step already moves


def make_evaluator(
    config: Config,
    val: Dataset,
    prepare: Sequence[Transform],
    criterion: Criterion,
    accuracy: Precision,
    train: Dataset | None = None,
) -> Evaluator:
    """The evaluation of the run, with probes chosen by the seed: of the validation set, and half as many of `train`."""
    loader = val_loader(
        val,
        prepare,
        batch_size=config.data.val_batch_size or config.data.batch_size,
        workers=config.data.workers,
        timeout_s=config.data.timeout,
        rank=distributed.rank(),
        world=distributed.world_size(),
    )
    pictures, probes, train_probes = config.log.pictures, list[Batch](), list[Batch]()
    if distributed.is_main():
        probes = loader.some(random.Random(config.seed).sample(range(len(val)), min(pictures, len(val))))
    if distributed.is_main() and train is not None:
        chosen = random.Random(config.seed).sample(range(len(train)), min(pictures // 2, len(train)))
        train_probes = val_loader(train, prepare, batch_size=1, workers=0).some(chosen) if chosen else []
    return Evaluator(
        loader,
        criterion.task,
        criterion,
        precision=accuracy,
        probes=probes,
        train_probes=train_probes,
        pictures=pictures,
    )


def channels_last(config: Config) -> bool:
    """Whether images and weights are; shards of a model have no layout."""
    return config.train.channels_last and config.train.strategy != "fsdp"
