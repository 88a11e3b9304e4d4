import copy
import pickle

import pytest
import torch
from torch import nn

from segtrain.compiling import compiled, repeated_blocks
from segtrain.errors import ConfigError
from segtrain.losses.criterion import bootstrapped_ce
from segtrain.registry import MODELS
from segtrain.task import Task
from segtrain.upsampling import Upsampled


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_losses_are_the_same_whatever_is_mined_at_the_step():
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    task = Task("segmentation", ("a", "b", "c"), ((0, 0, 0),) * 3)
    options = {"top_p": 0.2, "warmup": 2, "class_weights": [1.0, 2.0, 0.5], "label_smoothing": 0.1}
    plain, compiled_one = bootstrapped_ce(task, **options), bootstrapped_ce(task, **options)
    compiled_one.compile_losses()
    target = torch.randint(0, 3, (2, 9, 7))
    target[0, :3] = 255
    logits = torch.randn(2, 3, 9, 7, requires_grad=True)
    for step in range(6):
        one, other = plain(logits, target, step), compiled_one(logits, target, step)
        torch.testing.assert_close(other.logs, one.logs)
        slopes = [torch.autograd.grad(each.value, logits)[0] for each in (other, one)]
        torch.testing.assert_close(*slopes)
    assert torch._dynamo.utils.counters["frames"]["ok"] == 1, "once for all steps"
    for again in (logits.detach(), Upsampled(logits, (9, 7), (9, 7), True)):
        torch.testing.assert_close(compiled_one(again, target, 9).value, plain(again, target, 9).value)
    assert torch._dynamo.utils.counters["frames"]["ok"] == 1, "not where nothing is learnt, or logits are small"


def test_a_criterion_whose_losses_are_compiled_is_pickled_and_copied_as_any_other():
    task = Task("segmentation", ("a", "b", "c"), ((0, 0, 0),) * 3)
    criterion = bootstrapped_ce(task, top_p=0.2, class_weights=[1.0, 2.0, 0.5])
    keys = list(criterion.state_dict())
    criterion.compile_losses()
    assert criterion.path(torch.device("cpu")) == "torch.compile, or blocks at low resolution"
    assert list(criterion.state_dict()) == keys
    logits, target = torch.randn(2, 3, 9, 7), torch.randint(0, 3, (2, 9, 7))
    for again in (pickle.loads(pickle.dumps(criterion)), copy.deepcopy(criterion)):
        assert again.path(torch.device("cpu")) == "blocks"
        torch.testing.assert_close(again(logits, target, 0).value, criterion(logits, target, 0).value)


def test_a_configuration_that_compiles_compiles_the_losses_on_a_cpu(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda what=None, **options: seen.append(what) or what)
    learner = tiny("train.compile=true").learner
    assert seen == [learner.criterion.parts[0].losses[0]._loss, learner.model]
