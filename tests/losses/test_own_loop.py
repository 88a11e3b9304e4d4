"""The criteria in a loop that somebody else wrote: what they say of themselves, of mistakes, and how they are saved."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import segtrain.losses as L


def batch():
    torch.manual_seed(0)
    return torch.randn(2, 4, 6, 5), torch.randint(0, 4, (2, 6, 5))


def test_what_a_criterion_was_made_with_is_seen_when_it_is_printed():
    mined = repr(L.BootstrappedCrossEntropy(0.25, warmup=500, ignore_index=255, label_smoothing=0.1))
    for setting in ("p=0.25", "warmup=500", "ignore_index=255", "label_smoothing=0.1", "reduction='mean'"):
        assert setting in mined
    assert "min_per_class=3" in repr(L.Mined(nn.L1Loss(reduction="none"), 0.25, min_per_class=3))


def test_a_model_that_holds_its_criterion_can_be_saved_as_safetensors(tmp_path):
    model = nn.ModuleDict({"net": nn.Conv2d(3, 4, 1), "criterion": L.BootstrappedCrossEntropy(0.25, warmup=5)})
    for _ in range(3):
        model["criterion"](*batch())
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = nn.ModuleDict({"net": nn.Conv2d(3, 4, 1), "criterion": L.BootstrappedCrossEntropy(0.25, warmup=5)})
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert again["criterion"].iteration == 3


def test_a_checkpoint_of_the_days_of_plain_cross_entropy_can_be_loaded():
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    before = nn.ModuleDict({"net": nn.Conv2d(3, 4, 1), "criterion": nn.CrossEntropyLoss()})
    after = nn.ModuleDict({"net": nn.Conv2d(3, 4, 1), "criterion": L.BootstrappedCrossEntropy(0.25)})
    after.load_state_dict(before.state_dict())
    plain = L.CrossEntropyLoss()
    plain.load_state_dict(nn.CrossEntropyLoss().state_dict())
    weighted = L.CrossEntropyLoss(torch.ones(4))
    weighted.load_state_dict(nn.CrossEntropyLoss(weight).state_dict())
    assert weighted.weight.equal(weight)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (L.DiceLoss(), "DiceLoss is a loss of whole regions"),
        (L.BootstrappedCrossEntropy(0.5), "BootstrappedCrossEntropy mines already"),
        ("cross_entropy", "cannot mine 'cross_entropy'; expected a pixel loss"),
    ],
)
def test_what_cannot_be_mined_is_refused_when_it_is_given(loss, message):
    with pytest.raises(TypeError, match=message):
        L.Mined(loss, 0.25)


@pytest.mark.parametrize("criterion", [L.CrossEntropyLoss(), L.BootstrappedBCEWithLogits(0.25), L.LovaszLoss()])
def test_what_is_no_tensor_is_named(criterion):
    inputs, target = batch()
    with pytest.raises(TypeError, match=r"inputs must be a tensor, not dict; .*outputs\['out'\]"):
        criterion({"out": inputs}, target)
    with pytest.raises(TypeError, match="targets must be a tensor, not ndarray"):
        criterion(inputs, target.numpy())


@pytest.mark.parametrize("criterion", [L.BCEWithLogitsLoss(), L.BootstrappedBCEWithLogits(0.25)])
def test_floats_that_lack_the_one_channel_are_told_how_to_get_it(criterion):
    inputs, target = batch()
    with pytest.raises(ValueError, match=r".*\(2, 1, 6, 5\) \(target.unsqueeze\(1\)\)"):
        criterion(inputs[:, :1], (target == 1).float())


@pytest.mark.parametrize("weight", [torch.tensor(3.0), torch.tensor([3.0]), torch.arange(1.0, 5.0).view(4, 1, 1)])
def test_pos_weight_is_what_torch_takes(weight):
    inputs, target = batch()[0], torch.rand(2, 4, 6, 5)
    expected = nn.BCEWithLogitsLoss(pos_weight=weight)(inputs, target)
    torch.testing.assert_close(L.BCEWithLogitsLoss(pos_weight=weight)(inputs, target), expected)
    torch.testing.assert_close(L.BootstrappedBCEWithLogits(1.0, pos_weight=weight)(inputs, target), expected)
    with pytest.raises(ValueError, match="pos_weight has 3 entries"):
        L.BCEWithLogitsLoss(pos_weight=torch.ones(3))(inputs, target)


@pytest.mark.parametrize("iterations", [[None] * 6, list(range(6))])
def test_compiling_does_not_start_over_at_every_step(iterations):
    inputs, target = batch()
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    criterion = L.BootstrappedCrossEntropy(0.25, warmup=-1 if iterations[0] is None else 3)
    compiled = torch.compile(criterion, backend=counting)
    for iteration in iterations:
        compiled(inputs, target, iteration=iteration)
    assert len(graphs) <= 4  # the iteration 0, any other, and both sides of the warm-up
