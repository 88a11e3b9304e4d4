"""Gradients of kernels that can be differentiated again, by the plain path."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


def differentiable(plain: Callable[..., Tensor]) -> Callable[..., Any]:
    """For a backward pass (ctx, slope) → the gradient of the first input, where `plain` gives what forward gives.

    `ctx.saved_tensors` begin with the tensors that `plain` takes first, `ctx.options` are the others. Whoever wants
    the derivative of the gradient, or several gradients at once by vmap, gets that of `plain`.
    """

    def decorate(backward: Callable[..., Tensor]) -> Callable[..., Gradients]:
        @functools.wraps(backward)
        def wrapped(ctx: Any, slope: Tensor, *_: Tensor) -> Gradients:
            further = torch.is_grad_enabled()
            if further or torch._C._functorch.is_legacy_batchedtensor(slope):  # what is_grads_batched gives
                with torch.enable_grad():
                    inputs = ctx.saved_tensors[:3]
                    value = plain(*inputs, *ctx.options)
                    (gradient,) = torch.autograd.grad(value, inputs[0], slope, create_graph=further)
            else:
                gradient = backward(ctx, slope)
            return gradient, *[None] * (2 + len(ctx.options))

        return wrapped

    return decorate
