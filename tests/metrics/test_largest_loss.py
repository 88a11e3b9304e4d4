import numpy as np
import pytest
import torch

from segtrain.metrics.worst import LargestLoss
from segtrain.task import Batch, Task

TASK = Task("segmentation", ("a", "b"), ((0, 0, 0), (255, 255, 255)))


def batch(losses, ignored=()):
    """One image of 2x2 pixels for each list of four losses."""
    hardness = torch.tensor(losses, dtype=torch.float32).view(-1, 2, 2)
    target = torch.zeros(hardness.shape, dtype=torch.uint8)
    for index in ignored:
        target[index, 0] = 255
    logits = torch.stack([torch.zeros_like(hardness), hardness - 1], 1)
    image = torch.zeros(len(losses), 3, 2, 2, dtype=torch.uint8)
    names = tuple(f"image {sum(loss):g}" for loss in losses)
    valid = target != 255
    return torch.where(valid, hardness, 0.0), valid, logits, Batch(image, target, names)


def test_the_worst_of_all_batches_stay_in_order():
    hardest = LargestLoss(TASK, 3)
    for losses in ([[1, 1, 1, 1], [5, 5, 5, 5]], [[2, 2, 2, 2]], [[9, 9, 9, 9], [0, 0, 0, 0], [3, 3, 3, 3]]):
        hardest.update(*batch(losses))
    assert [probe.id for probe in hardest.mined(2.0)] == ["image 36", "image 20", "image 12"]


def test_the_mean_is_over_labelled_pixels_and_mined_is_what_reaches_the_threshold():
    hardest = LargestLoss(TASK, 2)
    hardest.update(*batch([[8, 8, 1, 2], [0, 0, 2, 2]], ignored=[0]))
    first, second = hardest.mined(2.0)
    assert (first.id, second.id) == ("image 19", "image 4")
    shown = {probe.id: probe for probe in (first, second)}
    assert shown["image 19"].mined.tolist() == [[0, 0], [0, 1]], "ignored pixels are not mined"
    assert shown["image 4"].mined.tolist() == [[0, 0], [1, 1]]
    assert shown["image 19"].prediction.tolist() == [[1, 1], [0, 1]]


def test_none_are_kept_where_none_are_wanted():
    hardest = LargestLoss(TASK, 0)
    hardest.update(*batch([[1, 1, 1, 1]]))
    assert hardest.mined(0.0) == []


def test_images_of_a_classifier_carry_their_confidence():
    hardest = LargestLoss(Task("classification", ("a", "b"), ((0, 0, 0),) * 2, -100), 2)
    image = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    logits, target = torch.tensor([[0.0, 2.0], [3.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0, -100])
    hardness = torch.tensor([2.1, 0.05, 0.0])
    hardest.update(hardness, target >= 0, logits, Batch(image, target, ("x", "y", "z")))
    worst = hardest.mined(1.0)
    assert [probe.id for probe in worst] == ["x", "y"]
    assert float(worst[0].confidence) == pytest.approx(0.8808, abs=1e-4)
    assert np.asarray(worst[0].mined) == 1
