"""A model on several ranks: copies that exchange gradients, and what its batch norms see."""

from __future__ import annotations

import os
from typing import Literal

import torch
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]  # knows timm's own batch norms too
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from segtrain.distributed import world_size

FEW_IMAGES = 4  # with fewer, batch statistics are mostly noise


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
