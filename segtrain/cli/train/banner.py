"""What a run says of itself before it starts."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import Any

import torch

from segtrain import __version__, distributed
from segtrain.build import Built
from segtrain.config import Source
from segtrain.run import RunDirectory, environment


def banner(built: Built, source: Source, run: RunDirectory | None, labels: str) -> dict[str, str]:
    """Lines by their first word: versions and device, data, model, the label check, where it is written."""
    lines = {
        "run": " · ".join(_machine(built, source)),
        "data": " · ".join(_data(built)),
        "model": " · ".join(_model(built)),
        "check": labels,
    }
    weights = _class_weights(built)
    if weights:
        lines["weight"] = "  ".join(
            f"{name} {weight:.3g}" for name, weight in zip(built.task.classes, weights, strict=True)
        )
    if run is not None:
        lines["where"] = f"{run.path} · tensorboard --logdir {shlex.quote(str(run.path.parent))}"
    return lines


def _machine(built: Built, source: Source) -> list[str]:
    precision = built.learner.precision
    on_cpu = precision.device.type == "cpu"
    device = f"cpu ({torch.get_num_threads()} threads)" if on_cpu else torch.cuda.get_device_name(precision.device)
    amp = precision.amp if precision.dtype else "fp32"
    world = distributed.world_size()
    ranks = [f"{world} ranks ({built.config.train.strategy})"] if world > 1 else []
    return [f"segtrain {__version__}", source.path.stem, f"torch {torch.__version__}", device, *ranks, amp]


def _data(built: Built) -> list[str]:
    config, task, world = built.config, built.task, distributed.world_size()
    batch = f"batch {config.data.batch_size}"
    if built.global_batch != config.data.batch_size:
        rate = built.config.optimizer.component.params["lr"]
        batch += (
            f" x {world} ranks x {config.train.accumulate} accumulated = {built.global_batch}, lr {rate:g} as given"
        )
    epochs = built.steps * config.train.accumulate / built.loader.batches_per_epoch
    return [
        f"train {len(built.train):,}",
        f"val {len(built.val):,}",
        f"{task.num_classes} classes, ignore {task.ignore_index}",
        batch,
        f"{built.steps:,} steps = {epochs:.3g} epochs",
        f"seed {config.seed}",
    ]


def _model(built: Built) -> list[str]:
    model, criterion = built.config.model, built.config.criterion
    names = [str(model.params[key]) for key in ("arch", "encoder") if key in model.params] or [model.name]
    millions = sum(p.numel() for p in built.learner.model.parameters()) / 1e6
    mined = f" top_p {criterion.params['top_p']}" if "top_p" in criterion.params else ""
    path = built.learner.criterion.path(built.learner.precision.device)
    return [" / ".join(names), f"{millions:.1f} M parameters", f"criterion {criterion.name}{mined} ({path})"]


def _class_weights(built: Built) -> list[float]:
    buffers = dict(built.learner.criterion.named_buffers())
    found = [buffer for name, buffer in buffers.items() if name.rpartition(".")[2] == "weight"]
    weights: list[float] = found[0].tolist() if found else []
    return weights


def command_text() -> str:
    """The command and where it runs, in Markdown."""
    facts = {key: value for key, value in environment().items() if key != "command" and value not in (None, [])}
    rows = [
        f"| {key} | {' '.join(map(str, value)) if isinstance(value, list) else value} |" for key, value in facts.items()
    ]
    return "\n".join(["```bash", f"python {shlex.join(sys.argv)}", "```", "", "| | |", "|---|---|", *rows])


def hyperparameters(built: Built) -> dict[str, float | str]:
    """What runs are compared by, always the same keys; "-" where a run has no such thing."""
    config, criterion = built.config, built.learner.criterion
    top_p = criterion.mined_share(sys.maxsize)
    return {
        "lr": float(config.optimizer.component.params["lr"]),
        "weight_decay": float(config.optimizer.component.params.get("weight_decay", 0.0)),
        "optimizer": config.optimizer.component.name,
        "criterion": config.criterion.name,
        "top_p": 1.0 if top_p is None else top_p,
        "batch": float(built.global_batch),
        "steps": float(built.steps),
        "seed": float(config.seed),
        "model": config.model.name,
        "arch": _text(config.model.params, "arch"),
        "encoder": _text(config.model.params, "encoder"),
    }


def _text(params: Mapping[str, Any], key: str) -> str:
    return str(params.get(key, "-"))
