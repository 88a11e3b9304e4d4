"""Boundary IoU: how well the outlines of the classes are met, from counts that add up over batches and ranks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from segtrain.distributed import sum_over_ranks
from segtrain.losses.inspection import near_label_change
from segtrain.metrics.scores import Values, histogram, mean_of_present, ratio
from segtrain.task import Task, predict


class BoundaryIoU:
    """IoU of the pixels of a class near its outline in the label, and near its outline in the prediction.

    Near are pixels at most `distance` from a change of class. The edge of the image is no change, and ignored pixels
    count nowhere, neither as changes nor as pixels. Cheng et al., Boundary IoU, CVPR 2021; they count the edge too.
    """

    def __init__(self, task: Task, distance: int, device: torch.device | str = "cpu") -> None:
        self._task, self._distance = task, distance
        # rows: near in both, near in the label, near in the prediction; the last column holds everything else
        self._counts = torch.zeros(3, task.num_classes + 1, dtype=torch.int64, device=device)

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count logits [B, C, H, W] (floating point) or predicted class ids [B, H, W] against class ids [B, H, W]."""
        k, ignored, label = self._task.num_classes, self._task.ignore_index, target.long()
        prediction = predict(logits) if logits.is_floating_point() else logits.long()
        valid = (label >= 0) & (label < k) & (label != ignored)
        label, prediction = torch.where(valid, label, ignored), torch.where(valid, prediction, ignored)
        of_label, of_prediction = (
            valid & near_label_change(ids, ignored, self._distance) for ids in (label, prediction)
        )
        both = of_label & of_prediction & (label == prediction)
        for row, (ids, near) in enumerate(((label, both), (label, of_label), (prediction, of_prediction))):
            self._counts[row] += histogram(torch.where(near, ids, k).flatten(), k + 1)

    def iou(self) -> Values:
        """Of every class [K], over all ranks; NaN for a class without outline in label and prediction."""
        both, label, prediction = sum_over_ranks(self._counts).cpu().numpy()[:, :-1]
        return ratio(both, np.asarray(label + prediction - both))

    def mean(self) -> float:
        """The mean over the classes that have an outline; NaN if none has."""
        return mean_of_present(self.iou())
