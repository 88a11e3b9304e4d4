"""The keys of a run's config. A section is a frozen dataclass; a component's own keys are those of its signature."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from segtrain.config.component import Component, ConflictError, Inline, Length, Share
from segtrain.registry import CRITERIA, DATASETS, MODELS, OBSERVERS, OPTIMIZERS, SCHEDULES, TRANSFORMS

_TENTH = Share(0.1)  # of the run


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is trained and validated on, and how it becomes batches."""

    train: Annotated[Component, DATASETS, Field(description="the samples to train on")]
    val: Annotated[
        Component,
        DATASETS,
        Field(description="the samples to validate on; `segtrain data split --of train` divides some off"),
    ]
    batch_size: Annotated[int, Field(ge=1, description="samples per process and forward pass")]
    val_batch_size: Annotated[int | None, Field(ge=1, description="null: batch_size")] = None
    workers: Annotated[
        int | Literal["auto"], Field(ge=0, description="loader processes per process; 0: none, auto: by the cores")
    ] = "auto"
    timeout: Annotated[
        float, Field(gt=0, description="seconds in which the loader processes must give a batch, or count as stuck")
    ] = 600.0
    verify: Annotated[
        bool, Field(description="read every file of both splits before the first step, as --check-data does")
    ] = False
    augment: Annotated[
        tuple[Annotated[Component, TRANSFORMS], ...], Field(description="transforms of training samples, in order")
    ] = ()
    val_prepare: Annotated[
        tuple[Annotated[Component, TRANSFORMS], ...],
        Field(description="transforms of validation samples (labels too) and of images to predict, always the same"),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """An optimizer with its own keys (lr, weight_decay, …) and what happens around it."""

    component: Annotated[Component, OPTIMIZERS, Inline]
    clip_norm: Annotated[float | None, Field(gt=0, description="largest norm of all gradients together; null: any")] = (
        None
    )
    encoder_lr: Annotated[float | None, Field(gt=0, description="learning rate of the encoder; null: lr")] = None
    freeze_encoder: Annotated[
        Length, Field(ge=0, description="steps at the start in which only the head learns, with the encoder as it is")
    ] = 0
    no_decay: Annotated[
        tuple[Literal["norm", "bias"], ...], Field(description="parameters that weight decay leaves alone")
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate goes from its full value to its final share over the run: along a registered rise."""

    component: Annotated[Component, SCHEDULES, Inline]
    warmup: Annotated[Length, Field(ge=0, description="steps in which the learning rate rises from 0 in a line")] = 0
    final: Annotated[float, Field(ge=0, description="share of the learning rate that is left at the end")] = 0.0


@dataclass(frozen=True, kw_only=True)
class Ema:
    """An exponential moving average of the weights."""

    decay: Annotated[float, Field(ge=0, lt=1, description="share of the average that a step keeps")] = 0.999


@dataclass(frozen=True, kw_only=True)
class Train:
    """How long and in which way to train. Exactly one of `steps` and `epochs` is given."""

    steps: Annotated[int | None, Field(ge=1, description="length of the run in optimizer steps")] = None
    epochs: Annotated[int | None, Field(ge=1, description="length of the run in passes over the training data")] = None
    amp: Annotated[
        Literal["auto", "off", "bf16", "fp16"],
        Field(description="precision; auto: bf16 where the device computes with it, fp16 on older GPUs"),
    ] = "auto"
    accumulate: Annotated[int, Field(ge=1, description="batches per optimizer step")] = 1
    channels_last: Annotated[bool, Field(description="memory layout of images and weights")] = True
    compile: Annotated[
        bool | Literal["regional", "graphs"],
        Field(description="torch.compile: the whole model, its repeated blocks, or as CUDA graphs (GPUs)"),
    ] = False
    ema: Annotated[Ema | None, Field(description="average of the weights, {decay: 0.999}; null: none")] = None
    on_nonfinite: Annotated[
        Literal["raise", "skip"], Field(description="what to do about a step with a NaN or infinite loss or gradient")
    ] = "raise"
    max_nonfinite: Annotated[int, Field(ge=1, description="steps skipped in a row after which the run fails")] = 10
    strategy: Annotated[
        Literal["ddp", "fsdp"], Field(description="ranks keep copies of the model (ddp) or shards of one (fsdp)")
    ] = "ddp"
    sync_batchnorm: Annotated[bool, Field(description="batch norm over all ranks; for GPUs")] = False
    static_graph: Annotated[bool, Field(description="every step uses the same parameters in the same order")] = False
    gradient_compression: Annotated[
        Literal["bf16"] | None, Field(description="precision in which ranks exchange gradients; null: their own")
    ] = None
    process_group_timeout: Annotated[
        float, Field(gt=0, description="seconds that a rank waits for the others before it gives up")
    ] = 600.0

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            raise ValueError("how long? Give steps or epochs")
        if self.steps is not None and self.epochs is not None:
            raise ConflictError("epochs", f"{self.epochs}, but steps is {self.steps} as well; set one of them to null")
        if self.static_graph and self.accumulate > 1:
            raise ConflictError(
                "static_graph", f"True, but accumulate is {self.accumulate}; it goes with steps of one batch only"
            )
        if self.strategy == "fsdp":
            if self.amp == "fp16":
                raise ConflictError("amp", "'fp16', but strategy is fsdp, which trains in bf16 or off")
            for key in ("compile", "static_graph", "gradient_compression"):
                if getattr(self, key):
                    raise ConflictError(key, f"{getattr(self, key)!r}, but strategy is fsdp; it goes with ddp only")


@dataclass(frozen=True, kw_only=True)
class Validate:
    """When to validate, and what decides which weights are the best."""

    every: Annotated[
        Length, Field(ge=1, description="steps between validations; the last step is always validated")
    ] = _TENTH
    monitor: Annotated[
        str | None,
        Field(description="the scalar that is best when largest; null: val/miou, in classification val/top1"),
    ] = None
    weights: Annotated[Literal["raw", "ema"], Field(description="which weights decide the best")] = "raw"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """When to save, and how much of it to keep."""

    every: Annotated[Length, Field(ge=1, description="steps between checkpoints; the last step is always saved")] = (
        _TENTH
    )
    keep_last: Annotated[int, Field(ge=1, description="checkpoints to keep besides the best")] = 2


@dataclass(frozen=True, kw_only=True)
class Log:
    """What is written while training, and where."""

    every: Annotated[Length, Field(ge=1, description="steps between log lines")] = 20
    mining_every: Annotated[
        Length, Field(ge=1, description="steps between close looks at what is mined (classes, boundaries), with a log")
    ] = 100
    pictures: Annotated[int, Field(ge=0, description="validation images drawn at each validation; 0: none")] = 8
    root: Annotated[Path, Field(description="directory that the runs' directories are made in")] = Path("runs")
    observers: Annotated[
        tuple[Annotated[Component, OBSERVERS], ...],
        Field(description="of your own, for another tracker or a metric of your own"),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run is made of."""

    task: Annotated[Literal["segmentation", "classification"], Field(description="what is learned")] = "segmentation"
    seed: Annotated[int, Field(ge=0, lt=2**32, description="of weights, order and augmentation")] = 0
    data: Data
    model: Annotated[Component, MODELS]
    criterion: Annotated[Component, CRITERIA]
    optimizer: Optimizer
    schedule: Annotated[Schedule | None, Field(description="null: a constant learning rate")] = None
    train: Train
    validate: Validate = field(default_factory=Validate)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    log: Log = field(default_factory=Log)
    init: Annotated[
        Path | None, Field(description="checkpoint whose weights to start from; null: as the model says")
    ] = None

    def __post_init__(self) -> None:
        if self.validate.weights == "ema" and self.train.ema is None:
            raise ConflictError(
                "validate.weights", "'ema', but train.ema is null; set train.ema={decay: 0.999} or weights: raw"
            )

    @property
    def monitor(self) -> str:
        """The scalar that decides which weights are the best."""
        return self.validate.monitor or ("val/miou" if self.task == "segmentation" else "val/top1")
