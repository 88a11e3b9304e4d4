"""A model on several ranks: copies that exchange gradients, or one in shards; and what its batch norms see."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]  # knows timm's own batch norms too
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from segtrain.distributed import is_main, world_size

FEW_IMAGES = 4  # with fewer, batch statistics are mostly noise
SHARD = 1 << 20  # parameters of a block that is worth being gathered and given up by itself


def replicated(
    model: nn.Module, device: torch.device, *, static_graph: bool = False, compression: Literal["bf16"] | None = None
) -> nn.Module:
    """A module that runs `model` and averages its gradients over the ranks; alone, the model itself.

    `compression`: gradients travel in bfloat16, half the bytes; each is rounded to 8 bits before it is summed.
    """
    if world_size() == 1:
        return model
    ids = [device.index] if device.type == "cuda" else None
    together = DistributedDataParallel(
        model, device_ids=ids, gradient_as_bucket_view=True, static_graph=static_graph, find_unused_parameters=False
    )
    if compression == "bf16":
        together.register_comm_hook(None, bf16_compress_hook)
    return together


def sharded(model: nn.Module, device: torch.device, *, smallest: int = SHARD) -> nn.Module:
    """`model` itself, each rank keeping its part of every parameter and of what the optimizer knows of it (FSDP2).

    Repeated blocks (members of a list) of at least `smallest` parameters are whole only while they work.
    """
    if world_size() == 1:
        return model
    mesh = init_device_mesh(device.type, (world_size(),))
    lists = [module for module in model.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    for block in [block for blocks in reversed(lists) for block in blocks]:
        if sum(p.numel() for p in block.parameters()) >= smallest and not isinstance(
            block, (nn.ModuleList, FSDPModule)
        ):
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


@contextmanager
def whole_on_every_rank(model: nn.Module) -> Iterator[None]:
    """A context in which each rank can run a sharded `model` without the others; every rank enters and leaves it."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for shard in shards:
        shard.set_reshard_after_forward(False, recurse=False)
        shard.unshard()
    yield
    for shard in shards:
        shard.reshard()
        shard.set_reshard_after_forward(shard is not model, recurse=False)  # the outermost is needed again at once


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor on every rank in full, any other as it is. Every rank calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(state: Any) -> Any:
    """`state` with full tensors on the CPU for the sharded ones in its dicts and lists; every rank calls it.

    Only rank 0 keeps them: a machine has not the memory for one copy per rank.
    """
    if isinstance(state, DTensor):
        full = whole(state)
        return full.cpu() if is_main() else None
    if isinstance(state, Mapping):
        return {key: gathered(value) for key, value in state.items()}
    return type(state)(map(gathered, state)) if type(state) in (list, tuple) else state


def spread(full: Any, like: Any) -> Any:
    """The shard of this rank of a full tensor, where `like` is sharded and of its shape; else `full` itself."""
    plain = isinstance(full, Tensor) and not isinstance(full, DTensor)
    if not plain or not isinstance(like, DTensor) or full.shape != like.shape:
        return full
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_full(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """`load_state_dict` of full tensors, whether `model` is sharded or not."""
    state = model.state_dict()
    model.load_state_dict({name: spread(value, state.get(name)) for name, value in weights.items()})


def with_batch_norms_over_ranks(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with batch norms that take their statistics over all ranks; alone, the model itself."""
    if world_size() == 1:
        return model
    if device.type != "cuda":
        raise ValueError(
            f"sync_batchnorm true, but the ranks are on {device.type}; expected GPUs; use a model with group norm, or "
            "train.sync_batchnorm=false"
        )
    synced: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return synced


def batch_norm_warnings(model: nn.Module, images: int) -> list[str]:
    """What to tell where batch norms see so few images on each rank that their statistics are mostly noise."""
    norms = sum(isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    if world_size() == 1 or images >= FEW_IMAGES or not norms:
        return []
    return [
        f"{norms} batch norms see {images} image{'s' * (images > 1)} each, on every rank its own: their statistics are "
        "noisy. Use a larger data.batch_size, train.sync_batchnorm=true (on GPUs) or a model with group norm"
    ]


def restart_warnings() -> list[str]:
    """What to tell where torchrun could not restart the ranks of several machines reliably."""
    env = os.environ
    one_machine = env.get("WORLD_SIZE") == env.get("LOCAL_WORLD_SIZE")
    if env.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0" or one_machine or env.get(_OWN_STORES) == "1":
        return []
    return [f"restarts on several machines need {_OWN_STORES}=1 in torchrun's environment, or ranks may not meet again"]


_OWN_STORES = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
