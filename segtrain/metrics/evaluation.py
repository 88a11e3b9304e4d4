"""The report of one evaluation: scores, a confusion matrix, and images with what was made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from segtrain.metrics.scores import Counts, SegmentationScores, share
from segtrain.metrics.tags import AVERAGED, BOUNDARY_TAG, RAW, of_averaged, scores_of
from segtrain.task import Batch, Task

_TABLE_ROWS = 60


@dataclass(frozen=True)
class Probe:
    """One image with what the model made of it; [*] is [H, W], or [] in classification."""

    image: npt.NDArray[np.uint8]  # [H, W, 3], RGB
    target: npt.NDArray[Any]  # [*], uint8, or int64 in classification
    prediction: npt.NDArray[Any]  # like the target
    mined: npt.NDArray[np.float32] | None  # [*], how much each pixel was kept, in [0, 1]
    loss: npt.NDArray[np.float32] | None  # [*]
    id: str
    confidence: npt.NDArray[np.float32] | None = None  # [], probability of the prediction, in classification
    iou: float | None = None  # of the image: the mean over the classes in its label

    @classmethod
    def of(
        cls,
        batch: Batch,
        index: int,
        prediction: Tensor,
        *,
        mined: Tensor | None = None,
        loss: Tensor | None = None,
        confidence: Tensor | None = None,
        iou: float | None = None,
    ) -> Probe:
        """One image of a batch with the class ids [*] that a model gave it. Waits for the device."""
        target = batch.target[index]
        return cls(
            image=batch.image[index].permute(1, 2, 0).cpu().numpy(),
            target=target.cpu().numpy(),
            prediction=prediction.to(target.dtype).cpu().numpy(),
            mined=_floats(mined),
            loss=_floats(loss),
            id=batch.ids[index],
            confidence=_floats(confidence),
            iou=iou,
        )


def _floats(values: Tensor | None) -> npt.NDArray[np.float32] | None:
    return None if values is None else values.float().cpu().numpy()


@dataclass(frozen=True)
class Confused:
    """`count` of the `labelled` pixels or images with one class got another one."""

    label: str
    prediction: str
    count: int
    labelled: int

    def __str__(self) -> str:
        return f"{self.label} taken for {self.prediction}: {self.count:,} of {self.labelled:,}"


@dataclass(frozen=True, eq=False)  # equal to itself alone, so that what is drawn of it can be kept
class Evaluation:
    """The report of one evaluation."""

    scalars: dict[str, float]
    classes: tuple[str, ...]
    confusion: Counts  # [K, K], rows = label, columns = prediction
    task: Task
    probes: tuple[Probe, ...] = ()  # the same images each time
    wrong: tuple[Probe, ...] = ()  # the most confident mistakes of a classifier, the images with the lowest IoU
    train_probes: tuple[Probe, ...] = ()  # training images, the same each time
    decides: str = RAW  # what the tags of the weights begin with that decide and that all but the scalars are of

    def scores(self) -> dict[str, float]:
        """The scalars of the weights that decide, as "val/miou" and so on."""
        return scores_of(self.scalars, self.decides)

    def confused(self, limit: int = 10) -> list[Confused]:
        """The pairs of label and prediction that most often go together wrongly, the most frequent first."""
        wrong = self.confusion * (1 - np.eye(len(self.confusion), dtype=np.int64))
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [
            Confused(self.classes[row], self.classes[column], int(wrong[row, column]), int(self.confusion[row].sum()))
            for row, column in pairs
            if wrong[row, column]
        ]

    def table(self) -> str:
        """The scores per class for a terminal, the worst class marked; of many classes only the worst."""
        lines = [_table(SegmentationScores(self.confusion, self.classes), self.task, self.scores())]
        if self.task.kind == "classification":
            lines += [str(pair) for pair in self.confused(5)]
        return "\n".join(lines)


def of_both(raw: Evaluation, averaged: Evaluation, *, averaged_decides: bool) -> Evaluation:
    """One report of weights and their average: the scores of both, everything else of those that decide."""
    scalars = {of_averaged(tag): value for tag, value in averaged.scalars.items()}
    deciding = replace(averaged, decides=AVERAGED) if averaged_decides else raw
    return replace(deciding, scalars={**raw.scalars, **scalars})


def _table(scores: SegmentationScores, task: Task, scalars: dict[str, float]) -> str:
    segmentation = task.kind == "segmentation"
    ranking = scores.iou if segmentation else scores.accuracy
    columns = [("IoU", scores.iou)] if segmentation else []
    columns += [("Acc", scores.accuracy), ("Precision", scores.precision)]
    labelled = scores.labelled
    width = max(len(name) for name in ("class", *task.classes))
    unit = "pixels" if segmentation else "samples"
    lines = [f"{'class':<{width}}" + "".join(f"{title:>11}" for title, _ in columns) + f"{unit:>16}  share"]
    present = [index for index in range(len(ranking)) if not np.isnan(ranking[index])]
    worst = min(present, key=lambda index: ranking[index], default=None)
    shown: Sequence[int] = range(len(ranking))
    if len(shown) > _TABLE_ROWS:
        shown = sorted(present, key=lambda index: ranking[index])[: _TABLE_ROWS // 3]
    for index in shown:
        cells = "".join(f"{_percent(values[index]):>11}" for _, values in columns)
        part = _percent(share(labelled[index], labelled.sum()))
        mark = "  <- worst" if index == worst and len(present) > 1 else ""
        lines.append(f"{task.classes[index]:<{width}}{cells}{labelled[index]:>16,}{part:>7}{mark}")
    if len(shown) < len(ranking):
        lines.append(f"… and {len(ranking) - len(shown)} more classes, all better or absent")
    means = (
        ("miou", "macc", "aacc", "fwiou", BOUNDARY_TAG.removeprefix("val/"))
        if segmentation
        else ("top1", "top5", "macc", "nll", "ece")
    )
    lines.append("  ".join(f"{name} {scalars[f'val/{name}']:.4f}" for name in means if f"val/{name}" in scalars))
    return "\n".join(lines)


def _percent(part: float) -> str:
    return "absent" if np.isnan(part) else f"{100 * part:.2f}"
