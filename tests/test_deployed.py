"""A model without branches on the size gives the numbers of the model that it wraps."""

import pytest
import torch
from tiny_components import tiny, tiny_classifier

from segtrain.deployed import Deployed
from segtrain.models.smp import ImageHead, encoder_decoder
from segtrain.task import predict, probabilities

SIZES = [(1, 1), (64, 96), (75, 101), (32, 33)]


@pytest.mark.parametrize("arch", ["unet", "fpn", "pan", "pspnet", "deeplabv3plus"])
@pytest.mark.parametrize("fuse_upsampling", [True, False])
def test_padding_and_upsampling_are_those_of_the_model_at_every_size(arch, fuse_upsampling):
    model = encoder_decoder(
        3, arch=arch, encoder="resnet18", encoder_weights=None, fuse_upsampling=fuse_upsampling
    ).eval()
    with torch.no_grad():
        for size in SIZES:
            image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
            assert torch.equal(Deployed(model, "logits")(image), model(image))


def test_a_head_for_whole_images_stays_behind():
    model = encoder_decoder(3, arch="fpn", encoder="resnet18", encoder_weights=None, aux_params=ImageHead()).eval()
    image = torch.randint(0, 256, (2, 3, 40, 70), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(Deployed(model, "logits")(image), model(image))


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("make", [tiny, tiny_classifier])
def test_answers_are_those_of_prediction(make, channels):
    model = make(channels).eval()
    image = torch.randint(0, 256, (3, 3, 8, 9), dtype=torch.uint8)
    with torch.no_grad():
        logits = model(image)
        assert torch.equal(Deployed(model, "logits")(image), logits)
        assert torch.equal(Deployed(model, "softmax")(image), probabilities(logits))
        labels = Deployed(model, "argmax")(image)
    assert labels.dtype == (torch.uint8 if make is tiny else torch.int64)
    assert torch.equal(labels.long(), predict(logits))
