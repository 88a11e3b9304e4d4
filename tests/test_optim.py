import warnings
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from segtrain import checkpoint, optim
from segtrain.registry import OPTIMIZERS, parameters


class Net(nn.Module):
    def __init__(self, reordered: bool = False) -> None:
        super().__init__()
        names = ("head", "norm", "encoder") if reordered else ("encoder", "norm", "head")
        for name in names:
            setattr(
                self, name, {"encoder": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(3), "head": nn.Conv2d(4, 2, 1)}[name]
            )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(self.norm(image)))
        return logits

    def in_encoder(self, name: str) -> bool:
        return name.startswith("encoder.")


def groups_of(model: nn.Module, **changes: Any) -> list[dict[str, Any]]:
    return optim.parameter_groups(model, **{"lr": 0.01, "weight_decay": 0.02, "encoder_lr": 0.001, **changes})


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        image = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        model(image).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def seeded(reordered: bool = False) -> Net:
    torch.manual_seed(0)
    model = Net()
    if not reordered:
        return model
    other = Net(reordered=True)
    other.load_state_dict(model.state_dict())
    return other


def build(name: str, model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="It is highly recommended to have 'opt_einsum'")
        optimizer: torch.optim.Optimizer = OPTIMIZERS[name](groups_of(model), **options)
    return optimizer


# ---- parameter groups


def test_groups_are_named_and_keep_their_learning_rate():
    groups = {group["name"]: group for group in groups_of(seeded())}
    assert {name: (len(g["params"]), g["lr"], g["base_lr"], g["weight_decay"]) for name, g in groups.items()} == {
        "encoder": (1, 0.001, 0.001, 0.02),
        "encoder_no_decay": (1, 0.001, 0.001, 0.0),
        "head": (1, 0.01, 0.01, 0.02),
        "head_no_decay": (3, 0.01, 0.01, 0.0),
    }


@pytest.mark.parametrize(("no_decay", "spared"), [((), 0), (("bias",), 3), (("norm",), 2), (("norm", "bias"), 4)])
def test_what_gets_no_weight_decay_is_a_choice(no_decay, spared):
    groups = groups_of(seeded(), no_decay=no_decay)
    assert sum(len(group["params"]) for group in groups if group["weight_decay"] == 0) == spared
    assert sum(len(group["params"]) for group in groups) == 6


def test_frozen_parameters_are_in_no_group():
    model = seeded()
    model.encoder.requires_grad_(False)
    assert [group["name"] for group in groups_of(model, encoder_lr=None)] == ["head", "head_no_decay"]
    with pytest.raises(ValueError, match=r"encoder_lr 0\.001 has nothing to act on"):
        groups_of(model)


def test_a_model_without_an_encoder_is_all_head():
    groups = optim.parameter_groups(nn.Linear(2, 2), lr=0.1, weight_decay=0.0)
    assert [group["name"] for group in groups] == ["head", "head_no_decay"]


# ---- every optimizer


def test_the_usual_optimizers_are_there():
    assert {"sgd", "adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "adafactor", "lion", "lamb", "muon"} <= set(
        OPTIMIZERS
    )
    assert not {"lbfgs", "sparseadam", "optimizer", "adahessian"} & set(OPTIMIZERS)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_key_has_a_type_that_takes_its_default_and_refuses_nonsense(name):
    keys = parameters(OPTIMIZERS[name])
    assert "lr" in keys
    assert not {"params", "capturable", "differentiable", "maximize"} & set(keys)
    for key in keys.values():
        leaf = TypeAdapter(key.annotation)
        leaf.validate_python(key.default)
        with pytest.raises(ValidationError):
            leaf.validate_python({"not": "a value"})


COMPILED = {"kron", "kronc", "kronw"}  # they call torch.compile


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in COMPILED else []) for name in OPTIMIZERS]
)
def test_every_optimizer_trains_and_goes_on_exactly_after_a_reload(name, tmp_path):
    model = seeded()
    optimizer = build(name, model)
    torch.manual_seed(1)
    train(model, optimizer, range(2))
    checkpoint.save(tmp_path / "x.pt", {"model": model.state_dict(), "optimizer": optim.by_name(optimizer, model)})
    random_state = torch.get_rng_state()
    train(model, optimizer, range(2, 4))

    loaded = checkpoint.load(tmp_path / "x.pt")
    other = Net()
    other.load_state_dict(loaded["model"])
    resumed = build(name, other)
    optim.load_by_name(resumed, other, loaded["optimizer"])
    torch.set_rng_state(random_state)
    train(other, resumed, range(2, 4))
    for key, value in model.state_dict().items():
        assert torch.isfinite(value).all()
        assert not torch.equal(value, seeded().state_dict()[key])
        assert torch.equal(value, other.state_dict()[key]), key


def test_options_reach_the_optimizer_and_defaults_are_its_own():
    optimizer = OPTIMIZERS["sgd"](groups_of(seeded()), momentum=0.5, nesterov=True)
    assert optimizer.defaults["momentum"] == 0.5
    assert optimizer.defaults["nesterov"] is True
    assert parameters(OPTIMIZERS["adamw"])["betas"].default == (0.9, 0.999)
    assert parameters(OPTIMIZERS["nesterov"])["momentum"].default == 0.9


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adagrad"])
def test_the_fused_form_is_chosen_where_there_is_one(name):
    model = seeded()
    assert all(group["fused"] for group in build(name, model).param_groups)
    assert not any(group["fused"] for group in build(name, model, fused=False).param_groups)
    assert not any(group["fused"] for group in build(name, model, foreach=True).param_groups)
    meta = nn.Linear(2, 2, device="meta")
    assert not OPTIMIZERS[name](optim.parameter_groups(meta, lr=0.1, weight_decay=0.0)).param_groups[0]["fused"]


def test_fused_and_plain_steps_agree():
    models = [seeded(), seeded()]
    for model, fused in zip(models, (True, False), strict=True):
        train(model, OPTIMIZERS["adamw"](groups_of(model), fused=fused), range(5))
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_peak_learning_rate_is_that_of_the_groups():
    assert build("adamc", seeded()).param_groups[0]["max_lr_snapshot"] == 0.01


# ---- state by name


def momenta(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {name: optimizer.state[parameter]["exp_avg"] for name, parameter in model.named_parameters()}


def test_reordered_modules_get_their_own_momentum():
    model = seeded()
    optimizer = build("adamw", model)
    train(model, optimizer, range(3))
    saved = optim.by_name(optimizer, model)
    other = seeded(reordered=True)
    resumed = build("adamw", other)
    assert [name for name, _ in other.named_parameters()] != [name for name, _ in model.named_parameters()]
    optim.load_by_name(resumed, other, saved)
    before, after = momenta(model, optimizer), momenta(other, resumed)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_state_is_taken_before_the_first_step_and_with_unused_parameters(tmp_path):
    model = seeded()
    optimizer = build("adamw", model)
    checkpoint.save(tmp_path / "x.pt", optim.by_name(optimizer, model))
    optim.load_by_name(build("adamw", model), model, checkpoint.load(tmp_path / "x.pt"))
    model.encoder(torch.randn(1, 3, 6, 6)).sum().backward()  # norm and head get no gradient
    optimizer.step()
    resumed = build("adamw", model)
    optim.load_by_name(resumed, model, optim.by_name(optimizer, model))
    assert len(resumed.state) == 2


def test_a_renamed_parameter_is_named():
    model = seeded()
    saved = optim.by_name(build("adamw", model), model)
    saved["state"]["stem.weight"] = saved["state"].pop("encoder.weight")
    with pytest.raises(ValueError, match=r"parameter 'encoder\.weight' is not in it \(1 missing, 1 left over\)"):
        optim.load_by_name(build("adamw", model), model, saved)


def test_other_groups_are_named():
    model = seeded()
    saved = optim.by_name(OPTIMIZERS["adamw"](groups_of(model, no_decay=())), model)
    with pytest.raises(ValueError, match="optimizer group 'encoder_no_decay' is not in it"):
        optim.load_by_name(build("adamw", model), model, saved)


def test_the_random_generator_of_an_optimizer_is_part_of_its_state():
    model = seeded()
    optimizer = build("kron", model)
    optimizer.rng.random()
    resumed = build("kron", model)
    optim.load_by_name(resumed, model, optim.by_name(optimizer, model))
    assert resumed.rng.getstate() == optimizer.rng.getstate()


def test_the_choice_of_kernel_is_not_restored():
    model = seeded()
    saved = optim.by_name(build("adamw", model, fused=False), model)
    resumed = build("adamw", model)
    optim.load_by_name(resumed, model, saved)
    assert all(group["fused"] for group in resumed.param_groups)
