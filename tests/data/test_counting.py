import numpy as np

from segtrain.data.counting import count_labels
from segtrain.data.labels import LabelSpec, from_values
from segtrain.task import Sample


class Fixed:
    """Three small label images of three classes, 255 ignored."""

    labels: LabelSpec = from_values({0: "a", 1: "b", 2: "c"}, {})
    kind = "segmentation"

    def __init__(self):
        self.targets = [np.array(t, np.uint8) for t in ([[0, 0], [1, 255]], [[2, 2], [2, 2]], [[255, 255], [255, 255]])]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return Sample(np.zeros((2, 2, 3), np.uint8), self.targets[index], str(index))

    def path(self, index):
        return str(index)


def test_pixels_of_each_class_and_valid_pixels_of_the_images_that_hold_it():
    assert count_labels(Fixed(), range(3)).tolist() == [[2, 1, 4], [3, 3, 4]]


def test_parts_add_up():
    parts = [count_labels(Fixed(), range(start, 3, 2)) for start in range(2)]
    assert np.array_equal(sum(parts), count_labels(Fixed(), range(3)))
