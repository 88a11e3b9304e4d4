"""A gradient that refuses to be differentiated, where the one of the plain path could be."""

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


def once(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """For the backward pass of a kernel whose first input and first saved tensor are the logits.

    torch's `once_differentiable` looks at the slopes alone; of a loss they are constant, so a second derivative would
    be left out in silence.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, *slopes: Tensor) -> Gradients:
        with torch.no_grad():
            gradient, *others = backward(ctx, *slopes)
        if torch.is_grad_enabled():
            gradient = _Once.apply(gradient, ctx.saved_tensors[0], slopes[0])
        return gradient, *others

    return wrapped


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, logits: Tensor, slope: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Gradients:
        raise RuntimeError(
            "second derivative of a loss of large logits, whose fast path has only the first; torch.func.grad and "
            "torch.func.hessian take the plain path, which has both"
        )
