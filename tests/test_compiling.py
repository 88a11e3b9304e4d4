import pytest
import torch
from torch import nn

from segtrain.compiling import compiled, repeated_blocks
from segtrain.errors import ConfigError
from segtrain.registry import MODELS


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        return x + self.second(self.first(x))


def network():
    return nn.Sequential(nn.Linear(4, 4), Block(), nn.Sequential(Block(), Block()), nn.BatchNorm1d(4))


def test_blocks_that_a_network_repeats_are_found():
    model = network()
    assert repeated_blocks(model) == [model[1], model[2][0], model[2][1]]
    assert repeated_blocks(nn.Sequential(Block(), nn.Linear(4, 4))) == [], "one is not repeated"


def test_of_blocks_within_blocks_the_outer_ones_are_compiled(tiny):
    tiny()  # registers the models
    model = MODELS["smp"](7, arch="fpn", encoder="resnet18", encoder_weights=None)
    blocks = repeated_blocks(model)
    assert sum(type(block).__name__ == "BasicBlock" for block in blocks) == 8
    inside = {id(child) for block in blocks for child in block.modules() if child is not block}
    assert not inside & {id(block) for block in blocks}


def test_compiling_regions_keeps_the_model_and_its_names():
    model = network()
    names = list(model.state_dict())
    assert compiled(model, "regional", torch.device("cpu")) is model
    assert list(model.state_dict()) == names
    assert all(block._compiled_call_impl is not None for block in repeated_blocks(model))


def test_graphs_without_a_gpu_are_refused_at_their_place_in_the_configuration(tiny):
    with pytest.raises(ConfigError, match=r"train: compile 'graphs' on cpu.*expected true, regional or false"):
        tiny("train.compile=graphs")


@pytest.mark.slow
@pytest.mark.parametrize("how", [True, "regional"])
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_computes_what_it_did(how):
    torch.manual_seed(0)
    model, x = network().eval(), torch.randn(3, 4)
    expected = model(x)
    torch.testing.assert_close(compiled(model, how, torch.device("cpu"))(x), expected)
