"""Samples with rare classes are drawn more often, as the definition says."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.data.balanced import Balanced, class_balanced, presence
from segtrain.data.camvid import camvid
from segtrain.data.combined import Part
from segtrain.data.counting import count_labels
from segtrain.data.folder_pairs import folder_pairs
from segtrain.data.image_folder import image_folder
from segtrain.data.labels import LabelSpec
from segtrain.data.order import sampling_weights, shuffled
from segtrain.data.sources import origin
from segtrain.data.windows import Undecoded, opened
from segtrain.errors import DataError
from segtrain.task import Sample

LABELS = LabelSpec(("common", "rare", "absent"))


@dataclass(frozen=True)
class Masks:
    """Samples that hold the given labels."""

    held: tuple[tuple[int, ...], ...]
    labels: LabelSpec = LABELS
    kind: str = "segmentation"

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> Sample:
        target = np.array([self.held[index]], np.uint8)
        return Sample(np.zeros((*target.shape, 3), np.uint8), target, str(index))

    def path(self, index: int) -> str:
        return str(index)


COMMON = Masks(((0, 255), (0, 0), (0, 1), (0, 255), (255, 255)))


def test_each_class_is_as_likely_as_the_others_and_then_each_sample_that_holds_it():
    weights = sampling_weights(class_balanced(of=COMMON))
    each, rare = 1 / 2 / 4, 1 / 2
    assert np.allclose(weights / weights.sum(), [each, each, each + rare, each, 0])


def test_with_no_strength_every_sample_is_as_likely_as_the_others():
    assert np.allclose(sampling_weights(class_balanced(of=COMMON, strength=0)), 1)
    half = sampling_weights(class_balanced(of=COMMON, strength=0.5))
    assert np.allclose(half, (1 + sampling_weights(class_balanced(of=COMMON))) / 2)


def test_weights_of_the_set_itself_go_on_to_count():
    inner = Balanced(COMMON, (1.0, 1, 0, 1, 1))
    assert sampling_weights(class_balanced(of=inner))[2] == 0


def test_a_set_without_labels_is_refused():
    with pytest.raises(DataError, match="none of the 1 samples holds a class"):
        class_balanced(of=Masks(((255,),)))


def test_it_reads_nothing_but_labels_where_it_can(tmp_path: Path):
    for kind, array in (("images", np.zeros((8, 9, 3), np.uint8)), ("masks", np.eye(8, 9, dtype=np.uint8))):
        (tmp_path / kind / "train").mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / kind / "train" / "a.png")
    files = folder_pairs(root=tmp_path, names=["a", "b"])
    dataset = class_balanced(of=files)
    assert isinstance(opened(dataset, 0).image, Undecoded)
    assert origin(dataset, 0) == origin(files, 0)
    assert np.array_equal(count_labels(dataset, [0]), [[64, 8], [72, 72]])
    assert presence(dataset).tolist() == [[True, True]]


def test_classes_of_images_are_balanced(tmp_path: Path):
    for name, count in (("cat", 9), ("dog", 1)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4)).save(tmp_path / "train" / name / f"{i}.png")
    dataset = class_balanced(of=image_folder(root=tmp_path))
    order = shuffled(dataset, np.random.default_rng(0)) % 10
    assert (order == 9).sum() == 5


def test_bicyclists_of_camvid_come_more_often(real_data):
    part = Part(camvid(root=real_data / "camvid", split="train"), tuple(range(0, 367, 4)))
    has = presence(part)
    order = shuffled(class_balanced(of=part), np.random.default_rng(0)) % len(part)
    bicyclist = part.labels.names.index("bicyclist")
    assert has[order, bicyclist].mean() > 1.1 * has[:, bicyclist].mean()
