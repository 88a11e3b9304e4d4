"""Windows and views against what they must come to, and against slow references."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segtrain.inference import Inference, resized, shares, starts


def net(image):
    """Logits that depend on the place inside what is seen, so that windows differ from the whole."""
    height, width = image.shape[-2:]
    x = image.float()
    ramp = torch.linspace(-1, 1, width) + torch.linspace(-2, 2, height)[:, None]
    return torch.stack([x[:, 0] - ramp * 20, x[:, 1] * ramp], 1)


def pointwise(image):
    """Sees each pixel alone: the same in every window, and equivariant to flips."""
    x = image.float() / 255
    return torch.stack([x[:, 0] - x[:, 1], x[:, 2] ** 2, x[:, 1] * x[:, 0]], 1)


@pytest.fixture
def image():
    return torch.randint(0, 256, (2, 3, 23, 31), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("window", [(23, 31), (40, 50), (23, 99)])
def test_one_window_is_the_whole_image_bit_by_bit(image, window):
    assert torch.equal(Inference(window=window)(net, image), net(image))


@pytest.mark.parametrize("window", [(8, 8), (1, 1), (5, 31), (23, 7)])
@pytest.mark.parametrize("batch", [1, 3])
def test_windows_that_agree_blend_to_what_they_agree_on(image, window, batch):
    blended = Inference(window=window, batch=batch)(pointwise, image)
    torch.testing.assert_close(blended, pointwise(image), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("window", "stride"), [((9, 12), (4, 5)), ((9, 12), (9, 12)), ((20, 8), (7, 1))])
def test_windows_are_blended_as_in_the_slow_reference(image, window, stride):
    h, w = window
    total, weights = torch.zeros(2, 2, 23, 31, dtype=torch.float64), torch.zeros(23, 31, dtype=torch.float64)
    tent = torch.tensor([[min(y, h - 1 - y) + 1.0 for _ in range(w)] for y in range(h)], dtype=torch.float64)
    tent *= torch.tensor([min(x, w - 1 - x) + 1.0 for x in range(w)])
    for top in starts(23, h, stride[0]):
        for left in starts(31, w, stride[1]):
            place = (..., slice(top, top + h), slice(left, left + w))
            total[place] += tent * net(image[place]).double()
            weights[place[1:]] += tent
    blended = Inference(window=window, stride=stride)(net, image)
    torch.testing.assert_close(blended.double(), total / weights, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("batch", [2, 5, 100])
def test_the_number_of_windows_in_a_forward_pass_changes_nothing(image, batch):
    one, several = (Inference(window=(8, 10), batch=count)(net, image) for count in (1, batch))
    assert torch.equal(one, several)


def test_bands_are_the_whole_cut_into_rows(image):
    way = Inference(window=(8, 10), stride=(3, 4))
    bands = list(way.bands(net, image))
    assert len(bands) == len(starts(23, 8, 3))
    assert torch.equal(torch.cat(bands, 2), way(net, image))
    (whole,) = Inference(flip=True).bands(net, image)
    assert torch.equal(whole, Inference(flip=True)(net, image))


def test_no_more_than_a_window_of_the_image_is_ever_seen(image):
    seen = []
    Inference(window=(8, 10))(lambda tile: seen.append(tile.shape) or pointwise(tile), image)
    assert set(seen) == {(2, 3, 8, 10)}


@pytest.mark.parametrize("length", [1, 2, 7, 30, 97])
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (7, 3), (7, 7), (30, 15), (64, 1)])
def test_the_weights_of_windows_add_up_to_one_at_every_position_and_none_is_left_out(length, window, stride):
    begins = starts(length, min(window, length), stride)
    total = np.zeros(length)
    for begin, share in zip(begins, shares(begins, min(window, length), length), strict=True):
        assert (share > 0).all()
        total[begin : begin + len(share)] += share.double().numpy()
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert begins[0] == 0
    assert begins[-1] + min(window, length) == length
    assert all(0 < b - a <= stride for a, b in itertools.pairwise(begins))


def test_flips_are_exact_for_a_model_that_does_not_mind_them(image):
    assert torch.equal(Inference(flip=True)(pointwise, image), pointwise(image))


def test_a_flip_is_the_mean_of_the_image_and_of_its_mirror_image_turned_back(image):
    expected = (net(image) + net(image.flip(-1)).flip(-1)) / 2
    torch.testing.assert_close(Inference(flip=True)(net, image), expected)


def test_scales_are_the_mean_of_logits_at_the_size_of_the_image(image):
    parts = [net(resized(image, 0.5)), net(image), net(resized(image, 1.75))]
    expected = sum(F.interpolate(part, (23, 31), mode="bilinear", align_corners=False) for part in parts) / 3
    torch.testing.assert_close(Inference(scales=(0.5, 1.0, 1.75))(net, image), expected)


def test_views_of_a_plane_are_the_plane():
    image = torch.full((1, 3, 12, 9), 77, dtype=torch.uint8)
    way = Inference(window=(6, 6), scales=(0.25, 0.5, 1.0, 2.0), flip=True, batch=4)
    torch.testing.assert_close(way(pointwise, image), pointwise(image))


def test_a_classifier_has_views_too(image):
    def classifier(x):
        return torch.stack([x.float().mean((1, 2, 3)), x[..., 0].float().mean((1, 2))], 1)

    expected = (classifier(image) + classifier(image.flip(-1))) / 2
    torch.testing.assert_close(Inference(flip=True)(classifier, image), expected)


def test_the_whole_image_is_one_call_of_the_model():
    image, logits = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 2, 4, 4, dtype=torch.bfloat16)
    assert Inference()(lambda seen: logits if seen is image else None, image) is logits


def test_shrinking_averages_and_never_comes_to_nothing():
    checks = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).repeat(8, 8).expand(1, 3, 16, 16)
    small = resized(checks, 0.25)
    assert small.shape == (1, 3, 4, 4)
    assert (small.float() - 127.5).abs().max() < 2
    assert resized(checks, 0.001).shape == (1, 3, 1, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window": (0, 8)}, "at least 1 pixel"),
        ({"stride": (4, 4)}, "without a window"),
        ({"window": (8, 8), "stride": (8, 9)}, "pixels would be left out"),
        ({"scales": ()}, "one or more numbers above 0"),
        ({"scales": (1.0, -1.0)}, "one or more numbers above 0"),
        ({"batch": 0}, "at least 1"),
    ],
)
def test_a_way_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Inference(**wrong)
