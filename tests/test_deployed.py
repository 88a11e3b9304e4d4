"""A model without branches on the size gives the numbers of the model that it wraps."""

import pytest
import torch
from tiny_components import tiny, tiny_classifier

from segtrain.deployed import Deployed
from segtrain.models.smp import encoder_decoder
from segtrain.task import predict, probabilities

SIZES = [(1, 1), (64, 96), (75, 101), (32, 33)]


@pytest.mark.parametrize("arch", ["unet", "pan"])
def test_padding_is_that_of_the_model_at_every_size(arch):
    model = encoder_decoder(3, arch=arch, encoder="resnet18", encoder_weights=None).eval()
    with torch.no_grad():
        for size in SIZES:
            image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
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
