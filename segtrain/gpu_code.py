"""Modules written in Triton, which is not installed everywhere, and the device that their kernels start on."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

GPUS = ("cuda", "meta")  # meta: tensors without numbers, to see what would be launched


_modules = SimpleNamespace()  # an attribute each: of a dict a compiler sees what it held at first


def triton_module(name: str) -> Any:
    """The module of this name, None where Triton is not installed."""
    return getattr(_modules, _import(name))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # what is compiled cannot import
def _import(name: str) -> str:
    """The attribute that holds a module, or None."""
    attribute = name.replace(".", "_")
    if not hasattr(_modules, attribute):
        try:
            module = importlib.import_module(name)
        except ImportError:
            module = None
        setattr(_modules, attribute, module)
    return attribute


def transformed(tensor: Tensor) -> bool:
    """Whether vmap, another transform of torch.func or a tangent of forward mode is at work, which no kernel knows."""
    if torch.compiler.is_compiling():
        return False
    tangent = forward_ad.unpack_dual(tensor).tangent  # type: ignore[no-untyped-call]
    return torch.func.debug_unwrap(tensor) is not tensor or tangent is not None


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton starts kernels on the current device, whatever their tensors are on."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()
