import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from segtrain.models.common import ImageModel, load_file


def a_transformer() -> nn.Module:
    """Has a part that is called encoder itself, as torchvision's transformers do."""
    return nn.ModuleDict({"stem": nn.Linear(2, 3), "encoder": nn.Linear(3, 3), "head": nn.Linear(3, 4)})


@pytest.mark.parametrize("prefix", ["", "net.", "encoder.", "net.encoder.", "model.encoder."])
def test_weights_are_found_inside_whole_models(prefix, tmp_path):
    source, target = a_transformer(), a_transformer()
    around = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    save_file({**around, "decoder.weight": torch.ones(1)}, tmp_path / "x.safetensors")
    load_file(target, tmp_path / "x.safetensors", "weights")
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_a_new_part_keeps_its_own_weights(tmp_path):
    source, target = a_transformer(), a_transformer()
    own = target["head"].weight.clone()
    save_file(source.state_dict(), tmp_path / "x.safetensors")
    load_file(target, tmp_path / "x.safetensors", "weights", new="head")
    assert torch.equal(target["head"].weight, own)
    assert torch.equal(target["stem"].weight, source["stem"].weight)


def test_a_classifier_is_not_cropped_and_names_its_head():
    model = ImageModel(nn.Flatten(), mean=(0.5,) * 3, std=(0.25,) * 3, head="fc")
    image = torch.full((2, 3, 1, 1), 255, dtype=torch.uint8)
    assert model(image).tolist() == [[2.0, 2.0, 2.0]] * 2
    assert model.in_encoder("net.conv.weight")
    assert not model.in_encoder("net.fc.weight")
