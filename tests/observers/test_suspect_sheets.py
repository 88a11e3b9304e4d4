import numpy as np

from segtrain.metrics.suspects import Crop, Suspect
from segtrain.observers.suspects import sheets
from segtrain.task import Task

RED, GREEN = (200, 20, 30), (10, 180, 40)
TASK = Task("segmentation", ("road", "person"), (RED, GREEN))


def suspect(size=(40, 60), label=0, prediction=1):
    target = np.full(size, label, np.uint8)
    predicted, region = target.copy(), np.zeros(size, bool)
    predicted[10:30, 20:40] = prediction
    region[10:30, 20:40] = True
    crop = Crop(np.full((*size, 3), 90, np.uint8), target, predicted, region)
    return Suspect("seen/here.png", (20, 10, 40, 30), 400, label, prediction, 0.9, 0.05, 1.0, 7.0, region, crop)


def test_label_and_prediction_stand_side_by_side_in_the_colours_of_the_legend():
    (picture,) = sheets([suspect()], TASK)
    drawn = {color: int((picture == color).all(-1).sum()) for color in (RED, GREEN)}
    assert drawn[RED] > drawn[GREEN] > 0
    white_beside_black = (picture[:, 1:] == 255).all(-1) & (picture[:, :-1] == 32).all(-1)
    assert white_beside_black.sum() > 100, "the outline"


def test_ten_are_on_a_sheet_and_none_make_none():
    assert sheets([], TASK) == []
    assert len(sheets([suspect()] * 11, TASK)) == 2


def test_crops_of_all_sizes_can_be_drawn():
    for size in ((40, 60), (480, 300), (35, 400)):
        (picture,) = sheets([suspect(size)], TASK)
        assert picture.dtype == np.uint8


def test_images_of_a_classifier_are_cards():
    task = Task("classification", ("cat", "dog"), (RED, GREEN), -100)
    image = np.full((30, 40, 3), 77, np.uint8)
    crop = Crop(image, np.array(0), np.array(1), np.ones((30, 40), bool))
    one = Suspect("a.jpg", (0, 0, 1, 1), 1, 0, 1, 0.9, 0.1, 1.0, 2.0, np.ones((1, 1), bool), crop)
    (picture,) = sheets([one, one], task)
    assert (picture == 77).all(-1).sum() > 2 * 30 * 40
