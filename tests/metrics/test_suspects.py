"""Hand-built probability maps: what is suspected, and what is not."""

import numpy as np
import pytest
import torch

from segtrain.metrics.suspects import SelfConfidence, Suspects, regions
from segtrain.task import Batch, Task

TASK = Task("segmentation", ("ground", "road", "pole"), ((0, 0, 0),) * 3)
EVEN = np.full(3, 0.9)


def target(height=20, width=30):
    """Ground above road."""
    ids = np.zeros((height, width), np.uint8)
    ids[height // 2 :] = 1
    return ids


def sure(ids, probability=0.9):
    """Probabilities [1, 3, H, W] of a model that is as sure of `ids` everywhere."""
    ids = torch.from_numpy(np.asarray(ids)).long()[None]
    probabilities = torch.full((1, 3, *ids.shape[1:]), (1 - probability) / 2)
    return probabilities.scatter_(1, ids[:, None], probability)


def found(label, *views, others=(), keep=10, confidence=EVEN, name="image"):
    suspects = Suspects(TASK, keep, confidence)
    look(suspects, label, *views, others=others, name=name)
    return suspects.ranked()


def look(suspects, label, *views, others=(), name="image"):
    height, width = label.shape
    batch = Batch(torch.zeros(1, 3, height, width, dtype=torch.uint8), torch.from_numpy(label)[None], (name,))
    suspects.update(views, others, batch, batch.target != 255)


def test_a_region_with_another_label_is_found_with_its_box_area_and_probabilities():
    true = target()
    true[3:7, 5:15] = 2
    label = target()
    (one,) = found(label, sure(true, 0.8))
    assert (one.image, one.box, one.area) == ("image", (5, 3, 15, 7), 40)
    assert (one.label, one.prediction) == (0, 2)
    assert one.confidence == pytest.approx(0.8)
    assert one.label_probability == pytest.approx(0.1)
    assert one.agreement == 1
    assert one.region.shape == (4, 10)
    assert one.region.all()
    assert one.score == pytest.approx(np.log(8) * 40**0.25)


def test_a_model_that_agrees_with_the_label_suspects_nothing():
    assert found(target(), sure(target())) == []


def test_outlines_that_differ_by_a_pixel_are_not_suspected_but_a_shift_by_more_is():
    true = target()
    true[9] = 1
    assert found(target(), sure(true)) == []
    true[4:9] = 1
    (one,) = found(target(), sure(true))
    assert one.box == (0, 4, 30, 10)


def test_ignored_pixels_are_no_suspects_and_explain_nothing():
    true, label = target(), target()
    true[2:6, 2:8] = 2
    label[2:6, 2:8] = 255
    assert found(label, sure(true)) == []
    label = np.ones((12, 12), np.uint8)
    label[:, 0:2] = 255
    (one,) = found(label, sure(np.zeros((12, 12), np.uint8)))
    assert (one.area, one.score) == (120, pytest.approx(np.log(18) * 120**0.25))


def test_one_label_and_one_prediction_make_a_region_also_over_corners():
    label = np.zeros((6, 8), np.int64)
    prediction = np.array(label)
    prediction[0:2, 0:2] = 1
    prediction[2:4, 2:4] = 1
    prediction[4:6, 6:8] = 1
    prediction[0:2, 2:4] = 2
    pieces = regions(label, prediction, prediction != label)
    assert [(a, b, box, int(region.sum())) for a, b, box, region in pieces] == [
        (0, 1, (0, 0, 4, 4), 8),
        (0, 1, (6, 4, 8, 6), 4),
        (0, 2, (2, 0, 4, 2), 4),
    ]


def test_the_surer_and_the_larger_come_first():
    suspects = Suspects(TASK, 3, EVEN)
    for name, probability, size in (("small", 0.9, 3), ("large", 0.9, 8), ("unsure", 0.8, 8), ("tiny", 0.9, 2)):
        true = target()
        true[0:size, 0:size] = 2
        look(suspects, target(), sure(true, probability), name=name)
    assert [one.image for one in suspects.ranked()] == ["large", "unsure", "small"]


def test_a_class_that_the_model_hardly_ever_sees_is_suspected_less():
    swapped = target()
    swapped[2:6, 4:8] = 2  # a pole that the model takes for ground
    unknown_ground = target()
    unknown_ground[12:16, 4:8] = 0  # ground that it takes for road
    rarely_sees_poles = np.array([0.9, 0.9, 0.1])
    suspects = Suspects(TASK, 5, rarely_sees_poles)
    look(suspects, swapped, sure(target()), name="pole")
    look(suspects, unknown_ground, sure(target()), name="ground")
    assert [one.image for one in suspects.ranked()] == ["ground", "pole"]
    scores = [one.score for one in suspects.ranked()]
    assert scores[0] - scores[1] == pytest.approx(np.log(9) * 4**0.25), "the outer ring is explained"


def test_what_contradicts_a_label_no_more_than_usual_is_no_suspect():
    swapped = target()
    swapped[2:6, 4:8] = 2
    assert found(swapped, sure(target(), 0.8), confidence=np.array([0.9, 0.9, 0.1])) == []
    assert found(swapped, sure(target(), 0.8), confidence=np.array([0.9, 0.9, 0.2])) != []


def test_views_are_averaged_and_others_only_say_whether_they_agree():
    true = target()
    true[3:7, 5:15] = 2
    label = target()
    (one,) = found(label, sure(true), sure(true, 0.7), others=[sure(label), sure(label)])
    assert one.confidence == pytest.approx(0.8)
    assert one.agreement == 0.5
    assert found(label, sure(true, 0.6), sure(label, 0.95)) == []


def test_the_crop_shows_the_surroundings_and_stays_small():
    true, label = np.zeros((900, 1200), np.uint8), np.zeros((900, 1200), np.uint8)
    true[100:800, 100:1100] = 1
    (one,) = found(label, sure(true))
    assert max(one.shown.image.shape) <= 480
    assert one.shown.target.shape == one.shown.prediction.shape == one.shown.region.shape
    small = target()
    small[3:7, 5:15] = 2
    (one,) = found(target(), sure(small))
    assert one.shown.region.shape == (19, 27)
    assert one.shown.region.sum() == 40
    assert (one.shown.prediction[one.shown.region] == 2).all()


def test_how_sure_a_model_is_of_each_class_is_the_mean_over_its_pixels():
    confidence = SelfConfidence(TASK)
    label = torch.from_numpy(target())[None]
    label[0, 0] = 255
    confidence.update(sure(target(), 0.8), label, label != 255)
    confidence.update(sure(np.zeros((20, 30), np.uint8), 0.6), label, label != 255)
    expected = [(0.8 * 270 + 0.6 * 270) / 540, (0.8 * 300 + 0.2 * 300) / 600, 1]
    assert confidence.means() == pytest.approx(expected)


def test_images_of_a_classifier_are_suspects_as_a_whole():
    task = Task("classification", ("a", "b", "c"), ((0, 0, 0),) * 3, -100)
    suspects = Suspects(task, 5, EVEN)
    batch = Batch(torch.zeros(4, 3, 9, 9, dtype=torch.uint8), torch.tensor([0, 1, 2, -100]), ("w", "x", "y", "z"))
    view = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.5, 0.1, 0.4], [1.0, 0.0, 0.0]])
    suspects.update([view], [], batch, batch.target >= 0)
    first, second = suspects.ranked()
    assert (first.image, first.label, first.prediction, first.area) == ("w", 0, 1, 1)
    assert (second.image, second.label, second.prediction) == ("y", 2, 0)
    assert first.score == pytest.approx(np.log(8))
