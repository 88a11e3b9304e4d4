"""Optimizers by name, their parameter groups, and their state by parameter name."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from timm.optim import get_optimizer_info, list_optimizers  # type: ignore[attr-defined]  # implicit re-exports
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from segtrain.registry import OPTIMIZERS

NoDecay = Literal["norm", "bias"]

# what only programs need: the parameters themselves, graph capture, double backward, ascent, printing
_NOT_KEYS = {"self", "params", "capturable", "differentiable", "maximize", "verbose"}
# LBFGS wants a closure, SparseAdam sparse gradients, torch's Muon matrices only (timm's takes every parameter)
_NO_PARAMETER_GROUPS = {"LBFGS", "SparseAdam", "Muon", "Optimizer"}
# chosen for the machine, so not part of what is restored
_NOT_STATE = {"params", "foreach", "fused"}
_LEAVES = (bool, int, float, str, type(None))


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    encoder_lr: float | None = None,
    no_decay: Sequence[NoDecay] = ("norm", "bias"),
) -> list[dict[str, Any]]:
    """The trainable parameters in up to four groups: encoder, encoder_no_decay, head, head_no_decay.

    `encoder_lr` is the learning rate of what `model.in_encoder(name)` says is the encoder (None: `lr`); `no_decay`
    names what gets no weight decay. Each group keeps its learning rate as `base_lr`, which schedules multiply.
    """
    norms = {
        f"{name}.{key}" for name, module in model.named_modules() if _is_norm(module) for key in ("weight", "bias")
    }
    in_encoder = encoder_test(model)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        encoder = in_encoder(name)
        spared = ("norm" in no_decay and name in norms) or ("bias" in no_decay and name.split(".")[-1] == "bias")
        key = ("encoder" if encoder else "head") + ("_no_decay" if spared else "")
        if key not in groups:
            rate = encoder_lr if encoder and encoder_lr is not None else lr
            groups[key] = {
                "params": [],
                "name": key,
                "lr": rate,
                "base_lr": rate,
                "weight_decay": 0.0 if spared else weight_decay,
            }
        groups[key]["params"].append(parameter)
    if encoder_lr is not None and not any(key.startswith("encoder") for key in groups):
        raise ValueError(
            f"encoder_lr {encoder_lr} has nothing to act on; this model has no trainable encoder; remove it"
        )
    return [groups[key] for key in sorted(groups)]


def encoder_test(model: nn.Module) -> Callable[[str], bool]:
    """Tells of a parameter's name whether it belongs to the encoder; a model that does not say has none."""
    found: Callable[[str], bool] = getattr(model, "in_encoder", lambda name: False)
    return found


class Encoder:
    """The encoder of a model, at rest in the first `freeze_encoder` steps: no gradients, no new statistics.

    The gradients are computed and dropped, not switched off: ranks that exchange gradients expect all of them.
    """

    def __init__(self, model: nn.Module, *, freeze_encoder: int = 0) -> None:
        in_encoder = encoder_test(model)
        self._frozen = freeze_encoder
        self._parameters = [parameter for name, parameter in model.named_parameters() if in_encoder(name)]
        self._norms = [
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and in_encoder(f"{name}.weight")
        ]
        if freeze_encoder and not self._parameters:
            raise ValueError(
                f"freeze_encoder {freeze_encoder} has nothing to act on; this model has no encoder; remove it"
            )

    def keep_statistics(self, step: int) -> None:
        """While at rest, let batch normalisation use its running statistics as they are; `model.train()` undoes it."""
        if step < self._frozen:
            for norm in self._norms:
                norm.eval()

    def drop_gradients(self, step: int) -> None:
        """While at rest, have none: an optimizer leaves a parameter without gradient alone, no decay, no momentum."""
        if step < self._frozen:
            for parameter in self._parameters:
                parameter.grad = None


def by_name(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """The optimizer's state keyed by parameter name, and the settings of its groups keyed by group name."""
    state = optimizer.state_dict()
    per_parameter = state.pop("state")
    groups = {
        group["name"]: {key: value for key, value in group.items() if key not in _NOT_STATE and _is_plain(value)}
        for group in state.pop("param_groups")
    }
    # what is left is an optimizer's own, such as the state of its random generator
    names = {name: per_parameter.get(index, {}) for index, name in enumerate(_names(optimizer, model))}
    return {"state": names, "groups": groups, "own": state}


def load_by_name(optimizer: torch.optim.Optimizer, model: nn.Module, saved: dict[str, Any]) -> None:
    """Restore what `by_name` gave, whatever the order of the parameters is now.

    What a configuration says (learning rates, weight decay, …) stays as it is now. Raises ValueError naming the first
    parameter or group that only one side has.
    """
    names = _names(optimizer, model)
    groups = optimizer.state_dict()["param_groups"]
    said = {"base_lr", *inspect.signature(type(optimizer)).parameters}
    _check_names("optimizer group", [group["name"] for group in groups], saved["groups"])
    _check_names("parameter", names, saved["state"])
    optimizer.load_state_dict(
        {
            "state": {index: saved["state"][name] for index, name in enumerate(names) if saved["state"][name]},
            "param_groups": [
                {**group, **{key: value for key, value in saved["groups"][group["name"]].items() if key not in said}}
                for group in groups
            ],
            **saved["own"],
        }
    )


def _names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """The names of the optimized parameters in the order in which torch numbers them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def _check_names(what: str, now: typing.Iterable[str], then: typing.Iterable[str]) -> None:
    missing, extra = sorted(set(now) - set(then)), sorted(set(then) - set(now))
    if missing or extra:
        seen = f"'{missing[0]}' is not in it" if missing else f"'{extra[0]}' is in it but not in this model"
        raise ValueError(
            f"saved optimizer state does not fit: {what} {seen} ({len(missing)} missing, {len(extra)} left over); "
            "resume with the configuration of the run, or start anew from its weights with --init"
        )


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def _is_plain(value: Any) -> bool:
    leaves = value if isinstance(value, (tuple, list)) else [value]
    return all(isinstance(leaf, (Tensor, *_LEAVES)) for leaf in leaves)


def _can_fuse(groups: list[dict[str, Any]]) -> bool:
    parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
    # of sharded parameters the flag that holds a fused step back would have to be sharded too
    return all(
        not isinstance(p, DTensor) and p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters
    )


def _leaf(parameter: inspect.Parameter) -> Any:
    """A type that pydantic can check for a parameter of an optimizer, or None if a config cannot say it."""
    default, hint = parameter.default, parameter.annotation
    if parameter.name == "lr" or (type(default) is int and hint is not int):
        return float
    arms = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else ()
    if arms and all(arm in _LEAVES or typing.get_origin(arm) is tuple for arm in arms):
        return hint
    if type(default) in (bool, int, float, str):
        return type(default)
    if isinstance(default, tuple):
        return tuple[tuple(float if item is not None else float | None for item in default)]  # type: ignore[misc]
    return None


def _factory(optimizer: type[torch.optim.Optimizer], defaults: dict[str, Any]) -> Callable[..., torch.optim.Optimizer]:
    """A factory whose keyword-only parameters are those of `optimizer`, with `defaults` in place of its own."""
    keys: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(optimizer).parameters.items():
        annotation = None if name in _NOT_KEYS else _leaf(parameter)
        if annotation is not None:
            default = defaults.get(name, parameter.default)
            if name == "lr" and not isinstance(default, float):  # a few have no default
                default = 1e-3
            keys[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)

    def build(groups: list[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
        if "fused" in keys and options.get("fused") is None and options.get("foreach") is None:
            options["fused"] = _can_fuse(groups)
        options.setdefault("lr", max(group["lr"] for group in groups))  # some remember it as the peak of the schedule
        return optimizer(groups, **{**defaults, **options})

    first = inspect.Parameter("groups", inspect.Parameter.POSITIONAL_ONLY, annotation=list[dict[str, Any]])
    build.__name__ = build.__qualname__ = optimizer.__name__
    build.__doc__ = inspect.cleandoc(optimizer.__doc__ or optimizer.__name__).split("\n\n")[0]
    build.__annotations__ = {name: key.annotation for name, key in keys.items()}
    build.__signature__ = inspect.Signature([first, *keys.values()])  # type: ignore[attr-defined]
    return build


def _register_all() -> None:
    for title, kind in vars(torch.optim).items():
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and title not in _NO_PARAMETER_GROUPS:
            OPTIMIZERS.register(title.lower())(_factory(kind, {}))
    for name in map(str, list_optimizers()):
        info = get_optimizer_info(name)
        # second order ones need another backward; a class that is still a string needs a package of its own (apex, …)
        if name not in OPTIMIZERS and not info.second_order and not isinstance(info.opt_class, str):
            momentum = {"momentum": 0.9} if info.has_momentum else {}  # as timm's own factory
            OPTIMIZERS.register(name)(_factory(info.opt_class, {**momentum, **(info.defaults or {})}))


_register_all()
