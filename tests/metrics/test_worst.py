import numpy as np
import pytest
import torch

from segtrain.metrics.images import iou_of_images
from segtrain.metrics.scores import SegmentationScores
from segtrain.metrics.worst import LowestIoU
from segtrain.task import Batch, Task

TASK = Task("segmentation", ("a", "b", "c"), ((0, 0, 0),) * 3)


def some(images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 2, (images, 8, 9), generator=generator, dtype=torch.uint8)  # no image has class c
    prediction = torch.where(torch.rand(images, 8, 9, generator=generator) < 0.7, target.long(), 2)
    target[:, :2] = 255
    return prediction, target


def test_the_iou_of_an_image_is_the_mean_over_the_classes_in_its_label():
    prediction, target = some(4)
    target[3] = 255
    found = iou_of_images(prediction, target, TASK)
    for answer, label, iou in zip(prediction[:3], target[:3], found, strict=False):
        counts = np.zeros((3, 3), np.int64)
        valid = label != 255
        np.add.at(counts, (label[valid].numpy(), answer[valid].numpy()), 1)
        assert iou.item() == pytest.approx(SegmentationScores(counts, TASK.classes).iou[:2].mean())
    assert found[3].item() == float("inf"), "an image without a label has none"


def test_the_lowest_of_all_batches_are_kept_in_order():
    worst, ious = LowestIoU(TASK, 3), {}
    for number in range(4):
        prediction, target = some(2, seed=number)
        names = (f"{number}-0", f"{number}-1")
        worst.update(prediction, Batch(torch.zeros(2, 3, 8, 9, dtype=torch.uint8), target, names))
        ious |= dict(zip(names, iou_of_images(prediction, target, TASK).tolist(), strict=True))
    assert [probe.id for probe in worst.total()] == sorted(ious, key=ious.get)[:3]
    assert [probe.iou for probe in worst.total()] == sorted(ious.values())[:3]
    assert worst.total()[0].image.shape == (8, 9, 3)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_of_equal_images_those_whose_id_comes_first_are_kept_in_whatever_order_they_come(size):
    prediction, target = (part.repeat(6, 1, 1) for part in some(1))
    for names in ("bdfaec", "abcdef", "fedcba"):
        worst = LowestIoU(TASK, 2)
        for start in range(0, 6, size):
            here = slice(start, start + size)
            image = torch.zeros(size, 3, 8, 9, dtype=torch.uint8)
            worst.update(prediction[here], Batch(image, target[here], tuple(names[here])))
        assert [probe.id for probe in worst.total()] == ["a", "b"]


def test_an_image_without_a_label_is_not_among_the_worst():
    prediction, target = some(2)
    target[0] = 255
    worst = LowestIoU(TASK, 2)
    worst.update(prediction, Batch(torch.zeros(2, 3, 8, 9, dtype=torch.uint8), target, ("none", "one")))
    assert [probe.id for probe in worst.total()] == ["one"]


def test_none_are_kept_where_none_are_wanted():
    worst = LowestIoU(TASK, 0)
    worst.update(*some(1))
    assert worst.total() == ()
