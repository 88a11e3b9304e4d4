"""What stands between the losses and other people's training loops: shapes, checks and reductions as in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from segtrain.losses import channels
from segtrain.losses.inspection import largest_image
from segtrain.losses.maps import LossMap, Selection, as_factor, divide, reduced
from segtrain.losses.mining import Hardest, Scope, check_share, check_warmup, mined_share
from segtrain.losses.targets import check_target, full_precision, not_ignored
from segtrain.losses.weights import weight_tensor
from segtrain.selection import share_of

_REDUCTIONS = ("mean", "sum", "none", "batchmean")
Reduction = str | Callable[[Tensor], Tensor]  # mean, sum, none, or what makes one number of the values kept
Warmup = int | Callable[[float, int], float]  # a number of iterations, or (p, iteration) → share
Weight = Sequence[float] | Tensor | None  # one number per class
Result = TypeVar("Result")


class Statistics(NamedTuple):
    """What was mined; scalars on the device of the logits. Sums are over this rank."""

    p: Tensor  # the share of the valid pixels that was asked for
    kept: Tensor
    valid: Tensor
    fraction: Tensor  # kept / valid
    threshold: Tensor  # the smallest hardness kept from (mean over images, where each has its own)
    loss_share: Tensor  # hardness kept / hardness of all that is valid
    max_image_share: Tensor  # what the image with the most kept pixels holds of them


def label_map(
    loss: Callable[..., Result],
    inputs: Tensor,
    targets: Tensor,
    *,
    weight: Weight,
    ignore_index: int,
    **options: Any,
) -> Result:
    """What a loss on labels gives; on a CPU, labels out of range raise ValueError."""
    _check_tensors(inputs, targets)
    if inputs.dim() == 1:
        inputs, targets = inputs.unsqueeze(0), targets.unsqueeze(0)
    if _may_ask(inputs) and inputs.dim() > 1 and not targets.is_floating_point():
        classes = max(inputs.shape[1], 2) if options.get("link") == "sigmoid" else inputs.shape[1]
        check_target(_plain(targets), classes, ignore_index)
    return loss(inputs, targets, weight=_checked_weight(weight, inputs), ignore_index=ignore_index, **options)


def channel_map(
    loss: Callable[..., LossMap],
    inputs: Tensor,
    targets: Tensor,
    *,
    weight: Weight,
    ignore_index: int,
    by_channel: bool = False,
    **options: Any,
) -> LossMap:
    """The map of a loss that compares channels: by pixel, or by element where the target has the inputs' shape.

    On a CPU, what is no label or no probability but should be one raises ValueError.
    """
    _check_tensors(inputs, targets)
    same = inputs.shape == targets.shape
    if inputs.dim() < 2:
        inputs = inputs.reshape(1, -1) if by_channel else inputs.reshape(-1, 1)
        targets = targets.reshape(inputs.shape) if same else targets
    if _may_ask(inputs):
        if loss is channels.bce:
            _check_unit("inputs", _plain(inputs), None)
        if same and loss in (channels.bce, channels.bce_with_logits):
            _check_unit("targets", _plain(targets), ignore_index)
        elif not same and not targets.is_floating_point():
            check_target(_plain(targets), max(inputs.shape[1], 2), ignore_index)
    weight = _checked_weight(weight, inputs)
    return loss(inputs, targets, weight=weight, ignore_index=ignore_index, by_channel=by_channel and same, **options)


def value_map(values: Tensor, targets: Tensor, ignore_index: int) -> LossMap:
    """The map of a loss that gives plain values in the shape of the target: each counts 1 and ranks by itself."""
    if values.shape != targets.shape:
        raise ValueError(
            f"a loss of shape {tuple(values.shape)} for a target of shape {tuple(targets.shape)} cannot be mined; "
            "expected one value per entry of the target: reduction='none'"
        )
    valid = not_ignored(targets, ignore_index)
    kept = torch.where(valid, full_precision(values), 0.0)
    return LossMap(kept, valid.to(kept.dtype), kept.detach(), valid)


def reduce(
    losses: LossMap,
    targets: Tensor,
    reduction: Reduction,
    selection: Selection | None = None,
    *,
    over_ranks: bool = False,
) -> Tensor:
    """The reduction of what is selected (None: of all that is valid), "none" in the shape of the target if it can be.

    Nothing valid gives a 0 that is connected to the inputs.
    """
    kept = losses.valid if selection is None else selection.kept
    if callable(reduction):
        kept_values = _kept_values(losses, share_of(kept))
        return reduction(kept_values) if kept_values.numel() else losses.value.sum()  # 0, as nothing is valid
    check_reduction(reduction)
    if reduction == "none":
        values = losses.value * as_factor(share_of(kept), losses.value.dtype)
        return values.view(targets.shape) if values.numel() == targets.numel() else values
    sums = reduced(losses, kept)
    if reduction == "mean":
        return divide(sums.total, sums.count, over_ranks=over_ranks)
    return sums.total if reduction == "sum" else sums.total / max(1, targets.shape[0] if targets.dim() else 1)


def check_reduction(reduction: Reduction) -> Reduction:
    """`reduction`, or ValueError if there is no such one."""
    if not callable(reduction) and reduction not in _REDUCTIONS:
        raise ValueError(f"reduction {reduction!r}; expected {', '.join(_REDUCTIONS)} or a function of a 1-D tensor")
    return reduction


def mining(
    p: float, warmup: Warmup, scope: Scope = "batch", skip_hardest: float = 0.0, min_per_class: int = 0
) -> Hardest:
    """Hardest with a warm-up as the functions and modules take it."""
    check_share("p", p)
    check_warmup(warmup)
    share = partial(warmup, p) if callable(warmup) else partial(mined_share, p, warmup)
    return Hardest(share, scope, skip_hardest, min_per_class)


def mine(
    losses: LossMap,
    inputs: Tensor,
    targets: Tensor,
    iteration: int,
    rule: Hardest,
    reduction: Reduction,
    *,
    training: bool = True,
) -> tuple[Tensor, Statistics]:
    """The reduction of the mined part, and its statistics.

    Ranks act together only in training, with gradients recorded: a validation on one must not wait for the others.
    """
    over_ranks = training and torch.is_grad_enabled()
    classes = max(inputs.shape[1], 2) if inputs.dim() > 1 else 2
    chosen = rule(losses, iteration, targets, classes, over_ranks=over_ranks)
    logs = {key: log.detach() for key, log in chosen.logs.items()}
    kept, valid = logs["kept"], logs["valid"]
    statistics = Statistics(
        p=logs["top_p"],
        kept=kept,
        valid=valid,
        fraction=kept / valid.clamp(min=1),
        threshold=chosen.threshold.nanmean(),
        loss_share=logs["hardness_kept"] / torch.where(logs["hardness_all"] == 0, 1.0, logs["hardness_all"]),
        max_image_share=largest_image(chosen.kept) / torch.where(kept > 0, kept, 1.0),
    )
    return reduce(losses, targets, reduction, chosen, over_ranks=over_ranks), statistics


def _kept_values(losses: LossMap, share: Tensor) -> Tensor:
    """The values kept, 1-D; those that are kept in part give way to whole ones with their mean. Asks the host."""
    whole, part = losses.value[share == 1], (share > 0) & (share < 1)
    portions = share[part]
    number = round(float(portions.sum()))
    if not number:
        return whole
    mean = (losses.value[part] * portions).sum() / portions.sum()
    return torch.cat([whole, mean.to(whole.dtype).expand(number)])


def _check_tensors(inputs: object, targets: object) -> None:
    for name, value in (("inputs", inputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            several = "; of several outputs give each by itself, as outputs['out']" if name == "inputs" else ""
            raise TypeError(f"{name} must be a tensor, not {type(value).__name__}{several}")


def _may_ask(inputs: Tensor) -> bool:
    return inputs.device.type == "cpu" and not torch.compiler.is_compiling()


def _plain(tensor: Tensor) -> Tensor:
    return torch.func.debug_unwrap(tensor)


def _checked_weight(weight: Weight, inputs: Tensor) -> Tensor | None:
    return weight_tensor(weight) if _may_ask(inputs) or not isinstance(weight, Tensor) else weight


def _check_unit(name: str, numbers: Tensor, ignore_index: int | None) -> None:
    outside = (numbers < 0) | (numbers > 1)
    if ignore_index is not None:
        outside &= not_ignored(numbers, ignore_index)
    if bool(outside.any()):
        wrong = numbers[outside]
        ignored = "" if ignore_index is None else f" or ignore_index {ignore_index}"
        raise ValueError(
            f"{name} hold {wrong.numel()} numbers outside [0, 1], the first {wrong[0].item():g}; expected "
            f"probabilities{ignored}"
        )
