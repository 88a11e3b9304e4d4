import math

import numpy as np
import pytest
import torch

from segtrain.metrics.boundary import BoundaryIoU
from segtrain.task import Task

TASK = Task("segmentation", ("a", "b", "c"), ((0, 0, 0),) * 3)


def near(ids, distance):
    """Pixels from which a change of class can be reached, the slow and obvious way."""
    height, width = ids.shape
    found = np.zeros(ids.shape, bool)
    for (y, x), here in np.ndenumerate(ids):
        for dy, dx in ((0, 1), (1, 0)):
            if y + dy >= height or x + dx >= width or here == ids[y + dy, x + dx] or 255 in (here, ids[y + dy, x + dx]):
                continue
            for v, u in ((y, x), (y + dy, x + dx)):
                rows = slice(max(0, v - distance + 1), v + distance)
                found[rows, max(0, u - distance + 1) : u + distance] = True
    return found


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_it_is_the_iou_of_the_pixels_near_outlines_over_all_batches(distance):
    rng = np.random.default_rng(distance)
    meter, both, either = BoundaryIoU(TASK, distance), np.zeros(3), np.zeros(3)
    for size in ((1, 9, 14), (2, 12, 7)):
        label = np.repeat(np.repeat(rng.integers(0, 3, size), 4, 1), 4, 2)
        label[rng.random(label.shape) < 0.1] = 255
        prediction = np.where(rng.random(label.shape) < 0.02, rng.integers(0, 3, label.shape), np.roll(label, 1, 2))
        prediction[prediction == 255] = 0
        meter.update(torch.from_numpy(prediction), torch.from_numpy(label.astype(np.uint8)))
        for one_label, one_prediction in zip(label, prediction, strict=True):
            seen = np.where(one_label == 255, 255, one_prediction)
            of_label, of_prediction = near(one_label, distance), near(seen, distance)
            for c in range(3):
                a, b = of_label & (one_label == c), of_prediction & (seen == c)
                both[c] += (a & b).sum()
                either[c] += (a | b).sum()
    np.testing.assert_allclose(meter.iou(), both / either)
    assert meter.mean() == pytest.approx((both / either).mean())


def test_a_shifted_outline_costs_more_the_narrower_the_band():
    label = torch.zeros(1, 40, 40, dtype=torch.uint8)
    label[:, :, 20:] = 1
    logits = torch.zeros(1, 3, 40, 40)
    logits[:, 0, :, :21] = 1
    logits[:, 1, :, 21:] = 1
    scores = {}
    for distance in (1, 3, 5):
        meter = BoundaryIoU(TASK, distance)
        meter.update(logits, label)
        scores[distance] = meter.mean()
    assert scores[1] == 0
    assert scores[1] < scores[3] < scores[5] < 1


def test_one_class_everywhere_has_no_outline_and_a_perfect_prediction_has_one():
    meter = BoundaryIoU(TASK, 3)
    label = torch.zeros(1, 8, 8, dtype=torch.uint8)
    meter.update(label.long(), label)
    assert math.isnan(meter.mean())
    label[:, 4:] = 2
    meter.update(label.long(), label)
    assert meter.mean() == 1
