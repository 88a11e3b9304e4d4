"""Scores of single images against the slow reference, and the same on any number of batches."""

import math

import numpy as np
import pytest
import torch

from segtrain.metrics.images import Answers, ImageScores
from segtrain.metrics.worst import LowestIoU
from segtrain.task import Batch, Task

TASK = Task("segmentation", ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def batches(sizes):
    rng = torch.Generator().manual_seed(0)
    number = 0
    for size in sizes:
        target = torch.randint(0, 3, (size, 5, 6), dtype=torch.uint8, generator=rng)
        target[torch.rand(target.shape, generator=rng) < 0.2] = 255
        if number == 0:
            target[0] = 255
        logits = torch.randn(size, 3, 5, 6, generator=rng)
        names = tuple(f"image {number + index}" for index in range(size))
        number += size
        yield logits, Batch(torch.zeros(size, 3, 5, 6, dtype=torch.uint8), target, names)


def slow(prediction, target):
    """Mean over the classes of the label, their lowest, and the share that is right."""
    valid = target != 255
    ious = {}
    for index, name in enumerate(TASK.classes):
        label, said = (target == index) & valid, (prediction == index) & valid
        if label.any():
            ious[name] = (label & said).sum() / (label | said).sum()
    right = (prediction == target)[valid].mean() if valid.any() else math.nan
    return ious, right


def test_images_are_scored_as_in_the_slow_reference_the_lowest_first():
    scores, worst, expected = ImageScores(TASK), LowestIoU(TASK, 2), {}
    for logits, batch in batches([3, 1, 4]):
        scores.update(logits.argmax(1), batch)
        worst.update(logits.argmax(1), batch)
        for name, one, target in zip(batch.ids, logits.argmax(1).numpy(), batch.target.numpy(), strict=True):
            expected[name] = slow(one, target)
    found = scores.total()
    assert {one.id for one in found} == set(expected)
    for one in found:
        ious, right = expected[one.id]
        if not ious:
            assert math.isnan(one.miou)
            assert one is found[-1]
            continue
        assert one.miou == pytest.approx(np.mean(list(ious.values())))
        assert one.accuracy == pytest.approx(right)
        assert one.worst_iou == pytest.approx(min(ious.values()))
        assert ious[one.worst] == min(ious.values())
    assert [one.miou for one in found[:-1]] == sorted(one.miou for one in found[:-1])
    assert [probe.id for probe in worst.total()] == [one.id for one in found[:2]]


def test_answers_begin_with_the_most_confident_mistakes():
    task = Task("classification", ("a", "b"), ((0, 0, 0), (1, 1, 1)), -100)
    logits = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 9.0]])
    answers = Answers(task)
    answers.update(logits, Batch(torch.zeros(4, 3, 1, 1), torch.tensor([1, 1, 1, -100]), ("w", "x", "y", "z")))
    assert [(one.id, one.label, one.prediction) for one in answers.total()] == [
        ("x", 1, 0),
        ("w", 1, 0),
        ("z", -1, 1),
        ("y", 1, 1),
    ]
    assert answers.total()[0].confidence == pytest.approx(torch.softmax(logits[1], 0)[0].item())
