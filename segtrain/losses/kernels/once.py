"""A gradient that refuses to be differentiated, where the one of the plain path could be."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


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
