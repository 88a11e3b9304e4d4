"""The losses as modules with the names and conventions of torch.nn, and mining around any pixel loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.losses import channels, functional, pixel
from segtrain.losses.maps import LossMap
from segtrain.losses.mining import Scope
from segtrain.losses.pixel import Spread, check_gamma, check_smoothing
from segtrain.losses.standalone import (
    Reduction,
    Statistics,
    Warmup,
    Weight,
    channel_map,
    check_reduction,
    label_map,
    mine,
    mining,
    reduce,
    value_map,
)
from segtrain.losses.weights import weight_tensor
from segtrain.task import Link


class _PixelModule(nn.Module):
    """A map function with its weight and reduction."""

    def __init__(self, losses: partial[LossMap], weight: Weight, reduction: Reduction, **plain: Any) -> None:
        super().__init__()
        self.register_buffer("weight", weight_tensor(weight))
        self.weight: Tensor | None
        self.reduction = check_reduction(reduction)
        self._losses = losses
        self._plain = plain  # options when nothing is mined

    def losses(self, inputs: Tensor, targets: Tensor, **options: Any) -> LossMap:
        """One entry per pixel: what `Mined` mines."""
        return self._losses(inputs, targets, weight=self.weight, **options)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return reduce(self.losses(inputs, targets, **self._plain), targets, self.reduction)

    def extra_repr(self) -> str:
        return _written({**self._losses.keywords, "reduction": self.reduction})


class CrossEntropyLoss(_PixelModule):
    """As torch.nn.CrossEntropyLoss, of labels of any integer type; see `functional.cross_entropy`."""

    def __init__(
        self,
        weight: Weight = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        *,
        spread: Spread = "all",
    ) -> None:
        check_smoothing(label_smoothing)
        losses = partial(
            label_map, pixel.cross_entropy, ignore_index=ignore_index, label_smoothing=label_smoothing, spread=spread
        )
        super().__init__(losses, weight, reduction)


class LabelSmoothingCrossEntropy(CrossEntropyLoss):
    """Cross entropy with label smoothing ε: ε/K for every class ("all", as torch), or ε/(K-1) for the others."""

    def __init__(
        self,
        smoothing: float = 0.1,
        spread: Spread = "all",
        weight: Weight = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight, ignore_index, reduction, smoothing, spread=spread)


class NLLLoss(_PixelModule):
    """As torch.nn.NLLLoss, of labels of any integer type; see `functional.nll_loss`."""

    def __init__(self, weight: Weight = None, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__(partial(label_map, pixel.nll, ignore_index=ignore_index), weight, reduction)


class FocalLoss(_PixelModule):
    """See `functional.focal_loss`."""

    def __init__(
        self, weight: Weight = None, ignore_index: int = -100, reduction: Reduction = "mean", *, gamma: float = 2.0
    ) -> None:
        losses = partial(label_map, pixel.focal, ignore_index=ignore_index, gamma=check_gamma(gamma))
        super().__init__(losses, weight, reduction)


class BCEWithLogitsLoss(_PixelModule):
    """As torch.nn.BCEWithLogitsLoss, also of labels; see `functional.binary_cross_entropy_with_logits`."""

    def __init__(
        self,
        weight: Weight = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        pos_weight: Weight = None,
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        check_smoothing(label_smoothing)
        losses = partial(
            channel_map, channels.bce_with_logits, ignore_index=ignore_index, label_smoothing=label_smoothing
        )
        super().__init__(losses, weight, reduction, by_channel=True)
        self.register_buffer("pos_weight", weight_tensor(pos_weight))
        self.pos_weight: Tensor | None

    def losses(self, inputs: Tensor, targets: Tensor, **options: Any) -> LossMap:
        return super().losses(inputs, targets, pos_weight=self.pos_weight, **options)


class BCELoss(_PixelModule):
    """As torch.nn.BCELoss, also of labels; see `functional.binary_cross_entropy`."""

    def __init__(self, weight: Weight = None, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        losses = partial(channel_map, channels.bce, ignore_index=ignore_index)
        super().__init__(losses, weight, reduction, by_channel=True)


class L1Loss(_PixelModule):
    """As torch.nn.L1Loss, also of labels; see `functional.l1_loss`."""

    def __init__(self, weight: Weight = None, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        losses = partial(channel_map, channels.l1, ignore_index=ignore_index)
        super().__init__(losses, weight, reduction, by_channel=True)


class MSELoss(_PixelModule):
    """As torch.nn.MSELoss, also of labels; see `functional.mse_loss`."""

    def __init__(self, weight: Weight = None, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        losses = partial(channel_map, channels.mse, ignore_index=ignore_index)
        super().__init__(losses, weight, reduction, by_channel=True)


class KLDivLoss(_PixelModule):
    """As torch.nn.KLDivLoss, also of labels; see `functional.kl_div`."""

    def __init__(
        self,
        weight: Weight = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        *,
        log_target: bool = False,
    ) -> None:
        losses = partial(channel_map, channels.kl_div, ignore_index=ignore_index)
        super().__init__(losses, weight, reduction, by_channel=True)
        self.log_target = log_target

    def losses(self, inputs: Tensor, targets: Tensor, **options: Any) -> LossMap:
        return super().losses(inputs, targets.exp() if self.log_target else targets, **options)


class _RegionModule(nn.Module):
    """A region loss with its weight."""

    def __init__(self, function: Callable[..., Tensor], weight: Weight, **options: Any) -> None:
        super().__init__()
        self.register_buffer("weight", weight_tensor(weight))
        self.weight: Tensor | None
        self._function = partial(function, **options)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._function(inputs, targets, weight=self.weight)


class DiceLoss(_RegionModule):
    """See `functional.dice_loss`."""

    def __init__(
        self, weight: Weight = None, ignore_index: int = -100, *, smooth: float = 0.0, link: Link = "softmax"
    ) -> None:
        super().__init__(functional.dice_loss, weight, ignore_index=ignore_index, smooth=smooth, link=link)


class JaccardLoss(_RegionModule):
    """See `functional.jaccard_loss`."""

    def __init__(
        self, weight: Weight = None, ignore_index: int = -100, *, smooth: float = 0.0, link: Link = "softmax"
    ) -> None:
        super().__init__(functional.jaccard_loss, weight, ignore_index=ignore_index, smooth=smooth, link=link)


class TverskyLoss(_RegionModule):
    """See `functional.tversky_loss`."""

    def __init__(
        self,
        weight: Weight = None,
        ignore_index: int = -100,
        *,
        false_positives: float = 0.3,
        false_negatives: float = 0.7,
        smooth: float = 0.0,
        link: Link = "softmax",
    ) -> None:
        options = {"false_positives": false_positives, "false_negatives": false_negatives, "link": link}
        super().__init__(functional.tversky_loss, weight, ignore_index=ignore_index, smooth=smooth, **options)


class LovaszLoss(_RegionModule):
    """See `functional.lovasz_loss`."""

    def __init__(self, weight: Weight = None, ignore_index: int = -100, *, link: Link = "softmax") -> None:
        super().__init__(functional.lovasz_loss, weight, ignore_index=ignore_index, link=link)


class Mined(nn.Module):
    """The reduction of a pixel loss over the hardest share p of the valid pixels.

    `loss` is one of the modules above, anything that returns a LossMap, or a function of (inputs, targets) that returns
    one value per target, as torch's losses do with reduction="none" (then `ignore_index` says what does not count).
    With a warm-up and without an `iteration` it counts its own calls in training mode, the first is 0; the count is in
    `state_dict`.
    `last` holds the statistics of the last call.
    """

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], LossMap | Tensor],
        p: float,
        warmup: Warmup = -1,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        *,
        scope: Scope = "batch",
        skip_hardest: float = 0.0,
        min_per_class: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(loss, (_RegionModule, Mined)) or not callable(loss):
            raise TypeError(_not_mined(loss))
        self.loss = loss
        self.ignore_index = ignore_index
        self.reduction = check_reduction(reduction)
        self.rule = mining(p, warmup, scope, skip_hardest, min_per_class)
        self._settings = {"p": p, "warmup": warmup, "reduction": reduction, "scope": scope}
        self._settings |= {"skip_hardest": skip_hardest, "min_per_class": min_per_class}
        self.iteration = 0
        self._counts = callable(warmup) or warmup > 0  # torch.compile starts over at each new count
        self.last: Statistics | None = None

    def forward(self, inputs: Tensor, targets: Tensor, iteration: int | None = None) -> Tensor:
        now = self.iteration if iteration is None else iteration
        losses = self._map(inputs, targets)
        value, self.last = mine(losses, inputs, targets, now, self.rule, self.reduction, training=self.training)
        if self._counts and iteration is None and self.training:
            self.iteration += 1
        return value

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.iteration)  # safetensors holds nothing but tensors

    def set_extra_state(self, state: Tensor) -> None:
        self.iteration = int(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A state of the days before something was mined has no count, and leaves it as it is."""
        state_dict.setdefault(f"{prefix}_extra_state", self.get_extra_state())
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return _written(self._settings)

    def _map(self, inputs: Tensor, targets: Tensor) -> LossMap:
        loss = self.loss.losses if isinstance(self.loss, _PixelModule) else self.loss
        result = loss(inputs, targets)
        return result if isinstance(result, LossMap) else value_map(result, targets, self.ignore_index)


def _written(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in settings.items())


def _not_mined(loss: object) -> str:
    name = type(loss).__name__
    if isinstance(loss, _RegionModule):
        return f"{name} is a loss of whole regions, without a value per pixel to mine; add it to a mined one instead"
    if isinstance(loss, Mined):
        return f"{name} mines already; give Mined the loss that it mines: {name}(…).loss"
    return f"cannot mine {loss!r}; expected a pixel loss of segtrain.losses, or a function of (inputs, targets)"


class BootstrappedCrossEntropy(Mined):
    """Cross entropy of the hardest share p of the valid pixels; called with (inputs, targets, iteration=None).

    Inputs are logits [B, C, *], targets labels [B, *] of any integer type, or numbers [B, C, *]. `p` is top_p of a
    configuration. `warmup`: the plain mean before so many iterations, or a function (p, iteration) → share. The other
    arguments are those of torch.nn.CrossEntropyLoss; see `Mined` for what it counts and tells.
    """

    def __init__(
        self,
        p: float,
        warmup: Warmup = -1,
        weight: Weight = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        loss = CrossEntropyLoss(weight, ignore_index, label_smoothing=label_smoothing)
        super().__init__(loss, p, warmup, ignore_index, reduction)


class BootstrappedBCEWithLogits(Mined):
    """Binary cross entropy of the hardest share p of the valid pixels; called with (inputs, targets, iteration=None).

    Inputs are logits [B, C, *]; targets are numbers of that shape, or labels [B, *], with C = 1 those of two classes.
    Arguments as in BootstrappedCrossEntropy and torch.nn.BCEWithLogitsLoss.
    """

    def __init__(
        self,
        p: float,
        warmup: Warmup = -1,
        weight: Weight = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        *,
        label_smoothing: float = 0.0,
        pos_weight: Weight = None,
    ) -> None:
        loss = BCEWithLogitsLoss(weight, ignore_index, pos_weight=pos_weight, label_smoothing=label_smoothing)
        super().__init__(loss, p, warmup, ignore_index, reduction)
