"""Criteria: weighted terms → Loss. What a configuration names under `criterion` becomes one of these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn

from segtrain.distributed import is_main, mean_over_ranks, world_size
from segtrain.losses import components, kernels
from segtrain.losses.components import Regionwise
from segtrain.losses.inspection import Inspection, inspect_mining
from segtrain.losses.maps import Loss, PixelLoss, divide
from segtrain.losses.mining import Hardest, Mean, Scope, Threshold, Warmup, hardest
from segtrain.losses.pixel import Spread
from segtrain.losses.presence import ImagePresence
from segtrain.losses.targets import named_entries
from segtrain.losses.terms import ImageTerm, PixelTerms, RegionTerm, Term, Weight, weight_at
from segtrain.losses.weights import ClassWeights
from segtrain.registry import CRITERIA
from segtrain.schedule import Rise
from segtrain.task import Link, Output, Task, logits_of, predict
from segtrain.upsampling import Logits, full_resolution


class Criterion(nn.Module):
    """A weighted sum of terms, each a mean over all ranks with its own denominator. It keeps no state.

    Logits are [B, C, *], labels [B, *]; T is the number of terms.

    `weights` holds the factors of each term's weight, in the order of the parts and their names.
    """

    def __init__(self, task: Task, parts: Sequence[Term], weights: Sequence[Sequence[Weight]] | None = None) -> None:
        super().__init__()
        self.task = task
        self._parts = nn.ModuleList(parts)
        self.names = [name for part in parts for name in part.names]
        self.weights = [tuple(factors) for factors in weights] if weights else [()] * len(self.names)
        links = {part.link for part in parts if part.link is not None}
        if len(links) > 1:
            raise ValueError(
                "the terms of a criterion read the same logits, but some through a softmax and some through sigmoids; "
                "expected one link (dice, jaccard, tversky, lovasz, l1 and mse take link: sigmoid)"
            )
        self.link: Link = links.pop() if links else "softmax"

    @property
    def parts(self) -> list[Term]:
        """The terms, or groups of them that are mined together."""
        return cast("list[Term]", list(self._parts))

    @property
    def channels(self) -> int:
        """Of the logits that it reads."""
        return self.task.channels(self.link)

    @property
    def reads_image_head(self) -> bool:
        """Whether a term is about the scores of an image head."""
        return any(isinstance(part, ImageTerm) for part in self.parts)

    @property
    def reads_pixels(self) -> bool:
        """Whether a term is about the logits of the pixels, or of the samples."""
        return not all(isinstance(part, ImageTerm) for part in self.parts)

    def compile_losses(self) -> None:
        """Let torch.compile make the maps of the pixel losses, which on a CPU is faster than the blocks.

        Mining and logs stay outside: they change with the step, for which the compiler would start over.
        """
        for module in self.modules():
            if isinstance(module, components.Pixelwise) and module.has_kernel:
                module.compile_training()

    def mass(self, target: Tensor) -> Tensor:
        """Σ weight of the valid entries on this rank, float64 [T]."""
        return torch.stack([mass for part in self.parts for mass in part.mass(target)])

    def forward(self, output: Logits | Output, target: Tensor, step: int, share: Tensor | None = None) -> Loss:
        """The loss of a batch at `step`; every rank calls it, also with nothing valid (0, connected to the graph).

        `share` [T] is this micro-batch's part of the mass of its step, for each term; None: it is the whole step.
        A label out of range gives NaN, see `check_target`.
        """
        if not all(part.makes_bands for part in self.parts):
            output = _at_full_resolution(output)  # once for all of them
        results = [part(output, target, step) for part in self.parts]
        sums = [one for result in results for one in result.sums]
        weights = [weight_at(factors, step) for factors in self.weights]
        counts = mean_over_ranks(_stacked([one.kept.count for one in sums]))
        means = divide(_stacked([one.kept.total for one in sums]), counts, over_ranks=False)
        if share is not None:
            means = means * share.to(means.dtype)
        terms = [_times(one, weight) for one, weight in zip(_unstacked(means), weights, strict=True)]
        value = _stacked(terms).sum() if len(terms) > 1 else terms[0]
        nothing = (counts == 0).all() if is_main() else counts.new_zeros(())  # the same on all ranks, so one counts it
        once = torch.ones_like(counts[0])
        logs = {"calls": once, "empty": nothing} | self._entries(logits_of(output), target)
        shares = [once] * len(terms) if share is None else share
        for name, term, part, one, weight in zip(self.names, terms, shares, sums, weights, strict=True):
            logs |= {f"loss/{name}": term, f"steps/{name}": part}
            logs |= {f"all_total/{name}": _times(one.all.total, weight), f"all_count/{name}": one.all.count}
        for tag, result in zip(self._tags(), results, strict=True):
            logs |= {f"{tag}/{key}": log for key, log in result.logs.items()}
        return Loss(value, {key: log.detach().double() for key, log in logs.items()})

    @torch.no_grad()
    def plain(self, logits: Logits, target: Tensor, step: int) -> Tensor:
        """Unmined sums of a batch on this rank, float64 [T, 2]: Σ weight·value, Σ weight. No other rank takes part.

        For evaluation, where ranks see different numbers of batches; a region loss is that of each batch.
        """
        sums = [one for part in self.parts for one in part.plain(logits, target)]
        weights = [weight_at(factors, step) for factors in self.weights]
        totals = [one.total.double() * weight for one, weight in zip(sums, weights, strict=True)]
        return torch.stack([torch.stack(totals), torch.stack([one.count for one in sums])], 1)

    def scalars(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Tagged numbers from logs that were added up over ranks, micro-batches and any number of steps."""
        terms = {name: _ratio(logs[f"loss/{name}"], logs[f"steps/{name}"]) for name in self.names}
        all_means = [_ratio(logs[f"all_total/{name}"], logs[f"all_count/{name}"]) for name in self.names]
        scalars = {"train/loss": sum(terms.values()), "train/loss_all": sum(all_means)}
        if len(terms) > 1:
            scalars |= {f"train/loss/{name}": mean for name, mean in terms.items()}
        scalars["train/empty_batches"] = logs["empty"]
        if "right" in logs:
            scalars["train/accuracy"] = _ratio(logs["right"], logs["valid"])
        for tag, part in zip(self._tags(), self.parts, strict=True):
            if part.mined:
                mined = {key.removeprefix(f"{tag}/"): sum_ for key, sum_ in logs.items() if key.startswith(f"{tag}/")}
                scalars |= {f"{tag}/{key}": number for key, number in _mining_scalars(mined, logs).items()}
        return scalars

    def mined_share(self, step: int) -> float | None:
        """The share of the valid pixels that the first term mined by share keeps at `step`; None without one."""
        for part in self.parts:
            if isinstance(part, PixelTerms) and isinstance(part.reduction, Hardest):
                return part.reduction.fraction(step)
        return None

    def path(self, device: torch.device) -> str:
        """What computes the losses on `device`, in a few words for a log."""
        losses = [loss for part in self.parts if isinstance(part, PixelTerms) for loss in part.losses]
        fast = [loss for loss in losses if isinstance(loss, components.Pixelwise) and loss.has_kernel]
        path = kernels.path(device) if fast else "plain torch"
        return f"torch.compile, or {path} at low resolution" if any(loss.compiled for loss in fast) else path

    @torch.no_grad()
    def inspect(self, logits: Logits, target: Tensor, step: int, *, over_ranks: bool = False) -> Inspection | None:
        """What is mined of a batch at `step`, None if nothing is: by this rank alone, or by all, who then all call it.

        For now and then and for pictures: it costs more than the loss itself. The first mined term is shown.
        """
        for part in self.parts:
            if isinstance(part, PixelTerms) and part.mined:
                maps, selection = part.select(logits, target, step, over_ranks=over_ranks)
                losses = maps[part.rank_by]
                return inspect_mining(losses, selection, logits, target, self.task, over_ranks=over_ranks)
        return None

    @torch.no_grad()
    def by_sample(self, logits: Logits, target: Tensor, step: int) -> Tensor | None:
        """Of each sample of a classification [B, C]: its hardness, and its share in what this rank alone would mine.

        float32 [2, B]; None if no term has a value per sample. The first mined term counts, or else the first.
        """
        parts = [part for part in self.parts if isinstance(part, PixelTerms)]
        for part in sorted(parts, key=lambda part: not part.mined)[:1]:
            maps, selection = part.select(logits, target, step, over_ranks=False)
            return torch.stack([maps[part.rank_by].hardness.float(), selection.share.float()])
        return None

    def _entries(self, logits: Logits, target: Tensor) -> dict[str, Tensor]:
        entries = {"pixels": torch.full((), target.numel(), dtype=torch.float64, device=target.device)}
        if target.dim() == 1:  # of pixels it would say little
            named = named_entries(target, self.task.ignore_index)
            right = named & (predict(full_resolution(logits).detach()) == target)
            entries |= {"valid": named.count_nonzero(), "right": right.count_nonzero()}
        return entries

    def _tags(self) -> list[str]:
        several = sum(part.mined for part in self.parts) > 1
        return [f"mining/{part.names[0]}" if several else "mining" for part in self.parts]


def as_criterion(component: PixelLoss | Regionwise | ImagePresence | Criterion, task: Task) -> Criterion:
    """A criterion of a single component: the plain mean of a pixel loss, another loss; a criterion is itself.

    ValueError for anything else.
    """
    if isinstance(component, Criterion):
        return component
    if isinstance(component, Regionwise):
        return Criterion(task, [RegionTerm(component, ALONE)])
    if isinstance(component, ImagePresence):
        return Criterion(task, [ImageTerm(component, ALONE)])
    if getattr(component, "link", None) not in ("softmax", "sigmoid") or not hasattr(component, "weigh"):
        raise ValueError(
            f"{type(component).__name__} is no pixel loss; expected link = 'softmax' or 'sigmoid', a call "
            "(logits, target) giving a LossMap, and weigh(target) (docs/extend.md)"
        )
    return Criterion(task, [PixelTerms([component], [ALONE], Mean())])


ALONE = "loss"  # the name of a term that has no other beside it


@CRITERIA.register("mined")
def mined(
    task: Task,
    *,
    loss: Annotated[PixelLoss | Criterion, CRITERIA],
    top_p: float,
    warmup: Warmup = None,
    scope: Scope = "batch",
    skip_hardest: float = 0.0,
    min_per_class: int = 0,
    rank_by: str | None = None,
) -> Criterion:
    """The mean of a pixel loss over the hardest `top_p` of the valid pixels.

    A weighted sum of pixel losses is mined as one: the term named `rank_by` selects the pixels of all.
    """
    return _mined(task, loss, hardest(top_p, warmup, scope, skip_hardest, min_per_class), rank_by)


@CRITERIA.register("bootstrapped_ce")
def bootstrapped_ce(
    task: Task,
    *,
    top_p: float,
    warmup: Warmup = None,
    scope: Scope = "batch",
    label_smoothing: float = 0.0,
    spread: Spread = "all",
    class_weights: ClassWeights = None,
    skip_hardest: float = 0.0,
    min_per_class: int = 0,
) -> Criterion:
    """Cross entropy of the hardest `top_p` of the valid pixels; they are ranked without weights and smoothing."""
    loss = components.cross_entropy(task, class_weights=class_weights, label_smoothing=label_smoothing, spread=spread)
    return _mined(task, loss, hardest(top_p, warmup, scope, skip_hardest, min_per_class))


@CRITERIA.register("bootstrapped_bce_with_logits")
def bootstrapped_bce_with_logits(
    task: Task,
    *,
    top_p: float,
    warmup: Warmup = None,
    scope: Scope = "batch",
    label_smoothing: float = 0.0,
    pos_weight: list[float] | None = None,
    class_weights: ClassWeights = None,
    skip_hardest: float = 0.0,
    min_per_class: int = 0,
) -> Criterion:
    """Binary cross entropy of the hardest `top_p` of the valid pixels: one channel, or each class against the rest."""
    loss = components.bce_with_logits(
        task, label_smoothing=label_smoothing, pos_weight=pos_weight, class_weights=class_weights
    )
    return _mined(task, loss, hardest(top_p, warmup, scope, skip_hardest, min_per_class))


@CRITERIA.register("ohem")
def ohem(
    task: Task,
    *,
    threshold: float = 0.7,
    min_kept: int = 10_000,
    scope: Scope = "batch",
    label_smoothing: float = 0.0,
    class_weights: ClassWeights = None,
) -> Criterion:
    """Cross entropy of the pixels whose label has a probability below `threshold`, of at least `min_kept` per batch."""
    loss = components.cross_entropy(task, class_weights=class_weights, label_smoothing=label_smoothing)
    return _mined(task, loss, Threshold(threshold, min_kept, scope))


@dataclass(frozen=True)
class WeightedTerm:
    """One term of a weighted sum; the weight is a number or a schedule."""

    criterion: Annotated[Any, CRITERIA]
    weight: float | Rise = 1.0


@CRITERIA.register("weighted_sum")
def weighted_sum(task: Task, *, terms: dict[str, WeightedTerm]) -> Criterion:
    """Σ weight · criterion over named terms, each averaged with its own denominator; sums may hold sums."""
    if not terms:
        raise ValueError("weighted_sum without terms; expected at least one: terms: {ce: {criterion: {name: …}}}")
    parts: list[Term] = []
    weights: list[tuple[Weight, ...]] = []
    for name, term in terms.items():
        if not callable(term.weight) and not 0 <= term.weight < math.inf:
            raise ValueError(f"weight {term.weight} of term '{name}'; expected a number >= 0 or a schedule")
        inner = as_criterion(term.criterion, task)
        parts += [
            part.renamed([name if old == ALONE else f"{name}/{old}" for old in part.names]) for part in inner.parts
        ]
        weights += [(term.weight, *factors) for factors in inner.weights]
    return Criterion(task, parts, weights)


def _mined(
    task: Task, loss: PixelLoss | Criterion, reduction: Hardest | Threshold, rank_by: str | None = None
) -> Criterion:
    if task.kind == "classification" and reduction.scope == "image":
        raise ValueError("scope 'image' in classification, where an image has one loss; expected 'batch' or 'rank'")
    whole = as_criterion(loss, task)
    losses: list[PixelLoss] = []
    for part in whole.parts:
        if not isinstance(part, PixelTerms):
            raise ValueError(
                f"{part.loss.name} cannot be mined: it is a loss of a whole region, no pixel has a value of its own; "
                "expected a pixel loss; add the region loss beside the mined one with weighted_sum"
            )
        if part.mined:
            raise ValueError("a mined criterion cannot be mined again; expected a pixel loss or a sum of pixel losses")
        losses += part.losses
    if rank_by is None and len(whole.names) > 1:
        raise ValueError(f"rank_by is missing; expected the term that ranks the pixels: {', '.join(whole.names)}")
    if rank_by is not None and rank_by not in whole.names:
        raise ValueError(f"rank_by '{rank_by}' is no term of the sum; expected one of {', '.join(whole.names)}")
    index = whole.names.index(rank_by) if rank_by is not None else 0
    return Criterion(task, [PixelTerms(losses, whole.names, reduction, index)], whole.weights)


def _at_full_resolution(output: Logits | Output) -> Logits | Output:
    if isinstance(output, Output):
        return output._replace(logits=full_resolution(output.logits))
    return full_resolution(output)


def _stacked(numbers: Sequence[Tensor]) -> Tensor:
    """[T]; of a single term it is a view, which a GPU need not launch anything for."""
    return torch.stack(list(numbers)) if len(numbers) > 1 else numbers[0][None]


def _unstacked(numbers: Tensor) -> list[Tensor]:
    return list(numbers) if len(numbers) > 1 else [numbers.squeeze(0)]


def _times(number: Tensor, factor: float) -> Tensor:
    return number if factor == 1 else number * factor


def _ratio(total: float, count: float) -> float:
    return total / count if count else 0.0


def _mining_scalars(mined: Mapping[str, float], logs: Mapping[str, float]) -> dict[str, float]:
    scalars = {
        "top_p_effective": _ratio(mined["kept"], mined["valid"]),
        "threshold": _ratio(mined["threshold"], mined["thresholds"]),
        "loss_share": _ratio(mined["hardness_kept"], mined["hardness_all"]),
        "kept_pixels": world_size() * _ratio(mined["kept"], logs["calls"]),
        "valid_fraction": _ratio(mined["valid"], logs["pixels"]),
    }
    return scalars | ({"top_p_target": _ratio(mined["top_p"], logs["calls"])} if "top_p" in mined else {})
