"""Windows and views on a GPU are those of a CPU."""

import pytest
import torch

from segtrain.inference import Inference
from segtrain.models.smp import encoder_decoder

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize(
    "way", [Inference(), Inference(window=(64, 96), batch=3), Inference(scales=(0.5, 1.0), flip=True)]
)
def test_a_gpu_sees_what_a_cpu_sees(way):
    model = encoder_decoder(5, arch="fpn", encoder="resnet18", encoder_weights=None).eval()
    image = torch.randint(0, 256, (2, 3, 150, 201), dtype=torch.uint8)
    expected = way(model, image)
    model.cuda()
    torch.testing.assert_close(way(model, image.cuda()).cpu(), expected, rtol=1e-2, atol=1e-2)
    mapped = way(lambda tile: model(tile.cuda()), image)  # the image stays where it is, its windows travel
    torch.testing.assert_close(mapped.cpu(), expected, rtol=1e-2, atol=1e-2)
