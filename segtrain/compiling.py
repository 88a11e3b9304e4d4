"""torch.compile in three ways."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import torch
from torch import nn

Compile = Literal[True, "regional", "graphs"]


def compiled(model: nn.Module, how: Compile, device: torch.device) -> nn.Module:
    """The model to train with; its weights are those of `model`. Raises ValueError for graphs without a GPU.

    True: the model as one; regional: each block that the network repeats, which compiles in a fraction of the time
    because equal blocks share their code; graphs: the model as one, replayed as a CUDA graph, for small batches of one
    size, whose time goes into starting kernels.
    """
    if how == "graphs" and device.type != "cuda":
        raise ValueError(
            f"compile 'graphs' on {device.type}, which has no CUDA graphs; expected true, regional or false"
        )
    if how == "regional":
        for block in repeated_blocks(model):
            block.compile()
        return model
    whole: nn.Module = torch.compile(model, mode="reduce-overhead" if how == "graphs" else None)  # type: ignore[assignment]
    return whole


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost modules of a class of which the model has several, each made of several layers itself."""
    blocks = [module for module in model.modules() if _is_block(module)]
    several = {kind for kind, count in Counter(map(type, blocks)).items() if count > 1}
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if type(child) in several and _is_block(child):
                found.append(child)
            else:
                visit(child)

    visit(model)
    return found


def _is_block(module: nn.Module) -> bool:
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return not isinstance(module, containers) and len(list(module.children())) > 1
