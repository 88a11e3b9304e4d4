"""What each rank runs in test_metrics.py, apart so that a started process imports little."""

import json
from pathlib import Path

import torch
import torch.distributed as dist

from segtrain.metrics.scores import ClassificationMeter, ConfusionMatrix
from segtrain.task import Kind, Task


def task_of(classes: int, kind: Kind = "segmentation") -> Task:
    names = tuple(f"class {index}" for index in range(classes))
    return Task(kind, names, ((128, 128, 128),) * classes, ignore_index=255 if kind == "segmentation" else -100)


def a_batch(classes: int, ignored: float = 0.3, seed: int = 0, images: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, 9, 7, generator=generator)
    target = torch.randint(0, classes, (images, 9, 7), generator=generator, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target


def counts(images: int, chosen: range) -> dict[str, object]:
    logits, target = a_batch(4, images=images)
    matrix, classifier = ConfusionMatrix(task_of(4)), ClassificationMeter(task_of(4, "classification"))
    for index in chosen:
        matrix.update(logits[index : index + 1], target[index : index + 1])
        classifier.update(logits[index : index + 1, :, 0, 0], target[index : index + 1, 0, 0] % 4)
    return {"confusion": matrix.total().confusion.tolist(), "scalars": classifier.total().scalars()}


def run(rank: int, folder: str, images: list[int]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    totals = [counts(number, range(rank, number, 2)) for number in images]
    Path(folder, f"{rank}.json").write_text(json.dumps(totals))
    dist.destroy_process_group()
