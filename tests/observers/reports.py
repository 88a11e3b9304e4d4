"""Generated street scenes with a model's imperfect answers: what an evaluation hands to the observers."""

from __future__ import annotations

import cv2
import numpy as np

from segtrain.metrics.evaluation import Evaluation, Probe
from segtrain.task import Task

CLASSES = ("ground", "sky", "building", "road", "vehicle", "pole", "person")
PALETTE = ((152, 130, 100), (70, 130, 180), (70, 70, 70), (128, 64, 128), (0, 0, 142), (220, 220, 0), (220, 20, 60))


def make_task(classes=CLASSES, palette=PALETTE) -> Task:
    return Task("segmentation", tuple(classes), tuple(palette))


def make_probe(seed: int, height: int = 96, width: int = 128, *, mined: float | None = 0.25) -> Probe:
    """A scene, an answer that is wrong near boundaries, and the loss that goes with it."""
    rng = np.random.default_rng(seed)
    target = np.zeros((height, width), np.uint8)
    horizon = int(height * rng.uniform(0.4, 0.6))
    target[:horizon] = 1
    for _ in range(4):
        x, w, h = rng.integers(0, width), int(width * rng.uniform(0.1, 0.3)), int(height * rng.uniform(0.1, 0.4))
        target[horizon - h : horizon, x : x + w] = 2
    road = np.array([[width * 0.1, height], [width * 0.45, horizon], [width * 0.55, horizon], [width * 0.9, height]])
    cv2.fillPoly(target, [road.astype(np.int32)], 3)
    for train_id, w, h in ((4, 0.18, 0.14), (5, 0.02, 0.45), (5, 0.02, 0.4), (6, 0.04, 0.2)):
        x, y = int(rng.uniform(0, 0.9) * width), int(rng.uniform(0.3, 0.6) * height)
        target[y : y + int(h * height), x : x + max(1, int(w * width))] = train_id
    target[-max(1, height // 16) :] = 255
    table = np.zeros((256, 3), np.uint8)
    table[: len(PALETTE)] = PALETTE
    image = np.clip(0.6 * table[target] + 60 + rng.normal(0, 12, (height, width, 1)), 0, 255).astype(np.uint8)
    prediction = cv2.medianBlur(np.where(target == 255, 0, target).astype(np.uint8), 5)
    edge = cv2.Laplacian(target.astype(np.float32), cv2.CV_32F) != 0
    near = cv2.GaussianBlur(edge.astype(np.float32), (0, 0), 2)
    loss = (np.exp(rng.normal(-6, 1, target.shape)) + 4 * near**2 + 2.0 * (prediction != target)).astype(np.float32)
    loss[target == 255] = 0
    share = None
    if mined is not None:
        valid = target != 255
        threshold = np.quantile(loss[valid], 1 - mined) if valid.any() else 0.0
        share = ((loss >= threshold) & valid).astype(np.float32)
    return Probe(image, target, prediction, share, loss, f"val/{seed:04d}.png")


def make_report(probes: tuple[Probe, ...], task: Task | None = None, **scalars: float) -> Evaluation:
    task = task or make_task()
    confusion = np.zeros((task.num_classes, task.num_classes), np.int64)
    for probe in probes:
        valid = probe.target != task.ignore_index
        np.add.at(confusion, (probe.target[valid], probe.prediction[valid]), 1)
    right = np.diag(confusion)
    labelled, answered = confusion.sum(1), confusion.sum(0)
    union = labelled + answered - right
    present = np.flatnonzero(union)
    means = {"val/miou": float((right[present] / union[present]).mean()) if len(present) else 0.0}
    means |= {"val/macc": 0.81, "val/aacc": float(right.sum() / max(1, confusion.sum())), "val/fwiou": 0.9}
    ious = {f"val/iou/{task.classes[i]}": float(right[i] / union[i]) for i in present}
    accs = {f"val/acc/{task.classes[i]}": float(right[i] / max(1, labelled[i])) for i in present}
    return Evaluation(
        scalars={**means, "val/loss": 0.412, **ious, **accs, **scalars},
        classes=task.classes,
        confusion=confusion,
        probes=probes,
        task=task,
    )
