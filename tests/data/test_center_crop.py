import numpy as np
import pytest

from segtrain.data.center_crop import center_crop
from segtrain.data.labelled import class_labels
from segtrain.data.loading import val_loader
from segtrain.data.scenes import scenes
from segtrain.task import Kind, Sample


class Ramps:
    """Images of many sizes whose values say where a pixel lies, from 0 to 200 in each direction."""

    labels = class_labels(("a", "b"))
    kind: Kind = "classification"
    sizes = ((40, 90), (200, 30), (1, 1), (7, 500))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Sample:
        height, width = self.sizes[index]
        rows, columns = np.meshgrid(np.linspace(0, 200, height), np.linspace(0, 200, width), indexing="ij")
        return Sample(np.stack([rows, columns, rows], axis=2).astype(np.uint8), np.array(index % 2), self.path(index))

    def path(self, index: int) -> str:
        return f"{index}.png"


def test_all_images_have_one_size_and_keep_label_and_name():
    dataset = center_crop(of=Ramps(), size=(16, 24))
    assert len(dataset) == 4
    for index in range(4):
        image, target, name = dataset[index]
        assert (image.shape, image.dtype) == ((16, 24, 3), np.uint8)
        assert (int(target), name) == (index % 2, dataset.path(index))
    (batch,) = val_loader(dataset, batch_size=4, workers=0)
    assert batch.image.shape == (4, 3, 16, 24)


def test_the_window_is_the_middle_in_the_shape_that_was_asked_for():
    image = center_crop(of=Ramps(), size=(20, 20), share=0.5)[0].image  # 20x20 of 40x90 pixels
    source = Ramps()[0].image
    assert np.array_equal(image, source[10:30, 35:55])
    whole = center_crop(of=Ramps(), size=(20, 45), share=1.0)[0].image
    assert abs(int(whole[..., 0].max()) - 200) < 5
    assert abs(int(whole[..., 1].min())) < 5


def test_segmentation_is_evaluated_whole():
    with pytest.raises(ValueError, match="evaluated on whole images"):
        center_crop(of=scenes(length=1), size=(8, 8))
