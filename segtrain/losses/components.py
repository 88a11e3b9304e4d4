"""The pixel and region losses that a configuration can name: each takes the logits of the model and knows its task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.losses import channels, pixel, region
from segtrain.losses.maps import LossMap, Reduced
from segtrain.losses.pixel import Spread, check_gamma, check_smoothing
from segtrain.losses.targets import label_weight, named_entries
from segtrain.losses.weights import ClassWeights, weight_tensor
from segtrain.registry import PIXEL_LOSSES, REGION_LOSSES
from segtrain.task import Link, Task
from segtrain.upsampling import Logits


class Pixelwise(nn.Module):
    """A pixel loss for one task: (logits, target) → LossMap."""

    def __init__(
        self,
        loss: Callable[..., LossMap],
        weigh: Callable[..., Tensor],
        link: Link,
        task: Task,
        class_weights: Sequence[float] | None,
        pos_weight: Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.link: Link = link
        self.has_kernel = loss in (pixel.cross_entropy, pixel.focal, channels.bce_with_logits)
        self._loss = partial(loss, ignore_index=task.ignore_index, **options)
        self._compiled: Callable[..., LossMap] | None = None
        self._weigh = partial(weigh, ignore_index=task.ignore_index)
        self.register_buffer("weight", weight_tensor(class_weights, task.num_classes), persistent=False)
        self.register_buffer("pos_weight", pos_weight, persistent=False)
        self.weight: Tensor | None
        self.pos_weight: Tensor | None

    def forward(self, logits: Logits, target: Tensor) -> LossMap:
        """`logits` at low resolution only if there is a kernel, which makes bands of them."""
        extra = {} if self.pos_weight is None else {"pos_weight": self.pos_weight}
        trains = isinstance(logits, Tensor) and logits.requires_grad
        loss = self._compiled if trains and self._compiled is not None else self._loss
        return loss(logits, target, weight=self.weight, **extra)

    def compile_training(self) -> None:
        """From now on torch.compile makes the map of logits at full resolution that want a gradient."""
        self._compiled = torch.compile(self._loss)

    @property
    def compiled(self) -> bool:
        """Whether it does."""
        return self._compiled is not None

    def __getstate__(self) -> dict[str, Any]:
        """What is compiled cannot be pickled; a copy is not compiled, as with torch.nn.Module.compile."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return state | {"_compiled": None}

    def weigh(self, target: Tensor) -> Tensor:
        """The `weight` of the map, [B, *], known without the logits."""
        return self._weigh(target, weight=self.weight)


class Regionwise(nn.Module):
    """A region loss for one task: (logits, target) → Reduced."""

    def __init__(
        self,
        name: str,
        loss: Callable[..., Reduced],
        link: Link,
        task: Task,
        class_weights: Sequence[float] | None,
        *,
        by_image: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.name = name
        self.link: Link = link
        self._loss = partial(loss, link=link, ignore_index=task.ignore_index, **options)
        self._by_image = by_image
        self._ignore_index = task.ignore_index
        if class_weights is not None and task.channels(link) == 1:
            raise ValueError(f"class_weights for {name} with one channel; expected none, there is one class to overlap")
        self.register_buffer("weight", weight_tensor(class_weights, task.num_classes), persistent=False)
        self.weight: Tensor | None

    def forward(self, logits: Tensor, target: Tensor, *, over_ranks: bool = True) -> Reduced:
        """`over_ranks`: the region extends over the batches of all ranks, who must all take part."""
        return self._loss(logits, target, weight=self.weight, over_ranks=over_ranks)

    def mass(self, target: Tensor) -> Tensor:
        """Images with something valid for a loss by image, else valid pixels; float64."""
        named = named_entries(target, self._ignore_index)
        if self._by_image and named.dim() > 1:
            named = named.flatten(1).any(1)
        return named.sum().double()


def on_labels(
    loss: Callable[..., LossMap], task: Task, class_weights: Sequence[float] | None = None, **options: Any
) -> Pixelwise:
    """A loss under a softmax whose pixels count what the class weights say."""
    return Pixelwise(
        loss, partial(label_weight, num_classes=task.num_classes), "softmax", task, class_weights, **options
    )


def on_channels(
    loss: Callable[..., LossMap], link: Link, task: Task, class_weights: Sequence[float] | None = None, **options: Any
) -> Pixelwise:
    """A loss that compares every channel: a pixel counts for the number of its channels."""
    weigh = partial(channels.channel_weight, channels=task.channels(link), classes=task.num_classes)
    return Pixelwise(loss, weigh, link, task, class_weights, **options)


def _probabilities(link: Link) -> Callable[[Tensor], Tensor]:
    return torch.sigmoid if link == "sigmoid" else partial(torch.softmax, dim=1)


_log_probabilities = partial(torch.log_softmax, dim=1)


@PIXEL_LOSSES.register("cross_entropy")
def cross_entropy(
    task: Task, *, class_weights: ClassWeights = None, label_smoothing: float = 0.0, spread: Spread = "all"
) -> Pixelwise:
    """Softmax cross entropy, as in torch; `label_smoothing` ε is spread over all classes or over the others."""
    check_smoothing(label_smoothing)
    return on_labels(pixel.cross_entropy, task, class_weights, label_smoothing=label_smoothing, spread=spread)


@PIXEL_LOSSES.register("label_smoothed_ce")
def label_smoothed_ce(
    task: Task, *, label_smoothing: float = 0.1, spread: Spread = "all", class_weights: ClassWeights = None
) -> Pixelwise:
    """Cross entropy with label smoothing ε: ε/K for every class ("all"), or ε/(K-1) for the others."""
    return cross_entropy(task, class_weights=class_weights, label_smoothing=label_smoothing, spread=spread)


@PIXEL_LOSSES.register("nll")
def nll(task: Task, *, class_weights: ClassWeights = None) -> Pixelwise:
    """Negative log-likelihood of the label. From logits it is cross entropy, as it is from log-probabilities."""
    return on_labels(pixel.cross_entropy, task, class_weights)


@PIXEL_LOSSES.register("focal")
def focal(task: Task, *, gamma: float = 2.0, class_weights: ClassWeights = None) -> Pixelwise:
    """(1 - p)^γ · cross entropy with p the probability of the label; γ = 0 is cross entropy."""
    return on_labels(pixel.focal, task, class_weights, gamma=check_gamma(gamma))


@PIXEL_LOSSES.register("bce_with_logits")
def bce_with_logits(
    task: Task,
    *,
    label_smoothing: float = 0.0,
    pos_weight: list[float] | None = None,
    class_weights: ClassWeights = None,
) -> Pixelwise:
    """Binary cross entropy: of one channel for two classes, else of each class against the rest."""
    check_smoothing(label_smoothing)
    positive = weight_tensor(pos_weight, task.channels("sigmoid"))
    return on_channels(
        channels.bce_with_logits, "sigmoid", task, class_weights, label_smoothing=label_smoothing, pos_weight=positive
    )


@PIXEL_LOSSES.register("bce")
def bce(task: Task, *, class_weights: ClassWeights = None) -> Pixelwise:
    """Binary cross entropy of the sigmoid's probabilities, its logarithm stopped at -100; see `bce_with_logits`."""
    return on_channels(channels.bce, "sigmoid", task, class_weights, activation=torch.sigmoid)


@PIXEL_LOSSES.register("kl_div")
def kl_div(task: Task, *, class_weights: ClassWeights = None) -> Pixelwise:
    """Divergence of soft targets (a teacher's probabilities) from the softmax; averaged over elements as in torch."""
    return on_channels(channels.kl_div, "softmax", task, class_weights, activation=_log_probabilities)


@PIXEL_LOSSES.register("l1")
def l1(task: Task, *, link: Link = "softmax", class_weights: ClassWeights = None) -> Pixelwise:
    """Mean absolute error of probabilities."""
    return on_channels(channels.l1, link, task, class_weights, activation=_probabilities(link))


@PIXEL_LOSSES.register("mse")
def mse(task: Task, *, link: Link = "softmax", class_weights: ClassWeights = None) -> Pixelwise:
    """Mean squared error of probabilities: the Brier score divided by the number of classes."""
    return on_channels(channels.mse, link, task, class_weights, activation=_probabilities(link))


@REGION_LOSSES.register("dice")
def dice(task: Task, *, link: Link = "softmax", smooth: float = 0.0, class_weights: ClassWeights = None) -> Regionwise:
    """1 - Dice overlap, averaged over the classes in the labels of the batch over all ranks."""
    return Regionwise("dice", region.overlap, link, task, class_weights, smooth=smooth)


@REGION_LOSSES.register("jaccard")
def jaccard(
    task: Task, *, link: Link = "softmax", smooth: float = 0.0, class_weights: ClassWeights = None
) -> Regionwise:
    """1 - intersection over union, averaged over the classes in the labels of the batch over all ranks."""
    return tversky(
        task, false_positives=1.0, false_negatives=1.0, link=link, smooth=smooth, class_weights=class_weights
    )


@REGION_LOSSES.register("tversky")
def tversky(
    task: Task,
    *,
    false_positives: float = 0.3,
    false_negatives: float = 0.7,
    link: Link = "softmax",
    smooth: float = 0.0,
    class_weights: ClassWeights = None,
) -> Regionwise:
    """1 - TP / (TP + α·FP + β·FN): more weight on false negatives finds more of small classes."""
    overlap = partial(region.overlap, false_positives=false_positives, false_negatives=false_negatives)
    return Regionwise("tversky", overlap, link, task, class_weights, smooth=smooth)


@REGION_LOSSES.register("lovasz")
def lovasz(task: Task, *, link: Link = "softmax", class_weights: ClassWeights = None) -> Regionwise:
    """Lovász-softmax: a convex stand-in for intersection over union, per image."""
    return Regionwise("lovasz", region.lovasz, link, task, class_weights, by_image=True)
