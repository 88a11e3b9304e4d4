import inspect
import pickle
import random
import subprocess
import sys
import warnings
from typing import Any

import albumentations
import numpy as np
import pytest
from pydantic import TypeAdapter

from segtrain.data import crop  # noqa: F401  registers
from segtrain.data.transforms import compose
from segtrain.registry import TRANSFORMS, parameters
from segtrain.task import Sample

IGNORE = 255
NEEDED: dict[str, dict[str, Any]] = {
    "CenterCrop": {"height": 20, "width": 24},
    "ConstrainedCoarseDropout": {"mask_indices": [2]},
    "Crop": {"x_max": 30, "y_max": 20},
    "CropAndPad": {"percent": 0.1},
    "CropNonEmptyMaskIfExists": {"height": 20, "width": 24},
    "LongestMaxSize": {"max_size": 40},
    "OneOf": {"of": [TRANSFORMS["HorizontalFlip"](IGNORE, p=1.0), TRANSFORMS["VerticalFlip"](IGNORE, p=1.0)]},
    "RandomCrop": {"height": 20, "width": 24},
    "RandomResizedCrop": {"size": (20, 24)},
    "RandomScaleCrop": {"size": (20, 24)},
    "RandomSizedCrop": {"min_max_height": (16, 30), "size": (20, 24)},
    "Resize": {"height": 20, "width": 24},
    "SmallestMaxSize": {"max_size": 40},
}


def build(name: str, **given: Any) -> Any:
    keys = {**NEEDED.get(name, {}), **given}
    if "p" in parameters(TRANSFORMS[name]):
        keys.setdefault("p", 1.0)
    return TRANSFORMS[name](IGNORE, **keys)


def sample(seed: int = 0, height: int = 48, width: int = 64) -> Sample:
    rng = np.random.default_rng(seed)
    target = np.kron(rng.integers(1, 6, (height // 8, width // 8)), np.ones((8, 8))).astype(np.uint8)
    target[:4, :4] = IGNORE
    return Sample(rng.integers(0, 256, (height, width, 3)).astype(np.uint8), target, "x")


def same(one: Sample, other: Sample) -> bool:
    return np.array_equal(one.image, other.image) and np.array_equal(one.target, other.target)


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_every_transform_keeps_images_and_labels_what_they_are(name: str):
    transform = build(name)
    for seed in range(3):
        given = sample(seed)
        image, target, _ = transform(given, np.random.default_rng(seed))
        assert (image.dtype, target.dtype) == (np.uint8, np.uint8)
        assert image.shape == (*target.shape, 3)
        assert set(np.unique(target)) <= {*range(1, 6), IGNORE}
        assert same(given, sample(seed)), "the source was written to"


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_every_transform_depends_on_the_generator_that_it_is_given_and_on_nothing_else(name: str):
    transform = build(name)
    expected = transform(sample(), np.random.default_rng(7))
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert same(transform(sample(), np.random.default_rng(7)), expected)
    assert same(pickle.loads(pickle.dumps(build(name)))(sample(), np.random.default_rng(7)), expected)


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_every_key_has_a_type_that_can_be_checked_and_a_description(name: str):
    factory = TRANSFORMS[name]
    assert inspect.getdoc(factory)
    for key, parameter in parameters(factory).items():
        assert key not in ("fill_mask", "mask_interpolation", "strict")
        if name == "OneOf" and key == "of":
            continue  # components, which the builder makes
        adapter = TypeAdapter(parameter.annotation)
        if parameter.default is not inspect.Parameter.empty:
            adapter.validate_python(parameter.default)


@pytest.mark.parametrize("name", ["HorizontalFlip", "ColorJitter", "RandomScaleCrop", "Resize"])
def test_classification_samples_keep_their_label(name: str):
    given = sample()._replace(target=np.array(3))
    image, target, _ = build(name)(given, np.random.default_rng(0))
    assert image.dtype == np.uint8
    assert (target.shape, target.dtype, int(target)) == ((), np.int64, 3)


def test_what_lies_beyond_the_picture_is_ignored():
    for name, keys in {
        "Affine": {"rotate": (30, 30)},
        "PadIfNeeded": {"min_height": 80, "min_width": 80},
        "Rotate": {"limit": (45, 45)},
        "RandomScaleCrop": {"size": (80, 80), "scale": (0.5, 0.5)},
    }.items():
        _, target, _ = build(name, **keys)(
            sample()._replace(target=np.full((48, 64), 2, np.uint8)), np.random.default_rng(0)
        )
        assert set(np.unique(target)) == {2, IGNORE}, name


def test_two_flips_in_a_row_are_independent():
    """Albumentations seeded through Compose fires all transforms together; here each of four outcomes is as likely."""
    both = compose([build("HorizontalFlip", p=0.5), build("VerticalFlip", p=0.5)])
    corner = np.zeros((2, 2), np.uint8)
    corner[0, 0] = 1
    given = Sample(np.zeros((2, 2, 3), np.uint8), corner, "x")
    counts = np.zeros(4)
    for key in range(4000):
        counts[np.flatnonzero(both(given, np.random.default_rng((0, key))).target)[0]] += 1
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 30.7  # p = 1e-6 with 3 degrees of freedom


def test_wrong_values_are_refused_in_one_line_that_names_the_key():
    for name, keys, said in [
        ("HorizontalFlip", {"p": 2.0}, "p: .*less than or equal to 1, received 2.0"),
        ("RandomCrop", {"height": -1, "width": 4}, "height: .*received -1"),
        ("Resize", {"area_for_downscale": "image_mask"}, "would average label ids"),
        ("RandomScaleCrop", {"scale": (2.0, 1.0)}, "must not be larger"),
    ]:
        with pytest.raises(ValueError, match=said) as caught:
            build(name, **keys)
        assert "\n" not in str(caught.value)


def test_only_transforms_that_need_more_than_image_and_labels_are_left_out():
    ours = set(TRANSFORMS)
    theirs = {
        name
        for name, cls in vars(albumentations).items()
        if inspect.isclass(cls) and issubclass(cls, albumentations.BasicTransform)
    }
    assert {"Affine", "CLAHE", "CoarseDropout", "ElasticTransform", "GridDropout", "RandomResizedCrop"} <= ours
    assert len(theirs & ours) > 85


def test_importing_it_neither_warns_nor_asks_the_network():
    script = (
        "import socket, sys, warnings\n"
        "warnings.simplefilter('error')\n"
        "def refuse(*args, **keys): sys.exit('a connection was tried')\n"
        "socket.socket.connect = refuse\n"
        "import segtrain.data.transforms\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_warning_comes_from_a_transform():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in TRANSFORMS:
            build(name)


def test_one_of_several_is_chosen_evenly_and_not_always():
    chosen = build("OneOf", p=0.6)
    corner = np.zeros((2, 2), np.uint8)
    corner[0, 0] = 1
    given = Sample(np.zeros((2, 2, 3), np.uint8), corner, "x")
    places = [int(np.flatnonzero(chosen(given, np.random.default_rng(seed)).target)[0]) for seed in range(1000)]
    assert abs(places.count(0) - 400) < 80
    assert abs(places.count(1) - 300) < 80
    assert places.count(3) == 0
    with pytest.raises(ValueError, match="nothing to choose from"):
        build("OneOf", of=[])
