"""Reading targets: which entries count, for how much, and what is wrong with them. Nothing here asks the host."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Labels(NamedTuple):
    """Class labels, made safe to index with; all shapes [B, *]."""

    safe: Tensor  # int64 to index with, 0 where there is no usable label
    weight: Tensor  # class weight, 1 without class weights; 0 where not valid
    valid: Tensor  # bool
    spoiled: Tensor  # 1, but NaN where the label is neither a class nor ignored: multiplied in, it marks the loss


class Shaped(Protocol):
    """Logits, or what stands for them."""

    @property
    def shape(self) -> torch.Size: ...

    def dim(self) -> int: ...


class _Shield(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, valid: Tensor) -> Tensor:
        return logits.view_as(logits)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return torch.where(ctx.saved_tensors[0], gradients[0], 0.0), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return tangent.view_as(tangent)


def shield(logits: Tensor, valid: Tensor) -> Tensor:
    """The logits, whose gradient will be 0 where not `valid` even if they hold NaN there: 0 times NaN is NaN.

    Replacing them before the loss does as well, for one more copy of the logits that only a compiler can do without.
    """
    if torch.compiler.is_compiling():
        return torch.where(valid, logits, 0.0)
    shielded: Tensor = _Shield.apply(logits, valid)
    return shielded


def full_precision(x: Tensor) -> Tensor:
    """float32 for half precision, everything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def read_labels(logits: Tensor, target: Tensor, num_classes: int, weight: Tensor | None, ignore_index: int) -> Labels:
    """The labels of `target` [B, *] (any integer type) for `logits` [B, C, *]."""
    check_shapes(logits, target)
    return _read_labels(target, num_classes, weight, ignore_index, logits.dtype)


_WIDE_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # of which torch finds no smallest and largest


def labels_of_block(
    target: Tensor, num_classes: int, weight: Tensor | None, ignore_index: int, dtype: torch.dtype
) -> Labels:
    """The labels of some pixels on a CPU, which may be asked whether there is anything unusual about them.

    What is the same for all of them is a single number: `spoiled` where no label is wrong, and without class weights
    also `weight` and `valid` where none is ignored.
    """
    if target.dtype in _WIDE_UNSIGNED:
        target = target.long()
    one = target.new_ones((), dtype=dtype)  # not torch.ones: that may be made on another device
    if weight is None and _are_labels(target, num_classes, but=ignore_index):
        return Labels(target.long(), one, one.bool(), one)
    valid = torch.from_numpy(target.numpy() != ignore_index)  # in a twentieth of the time that torch takes for bytes
    safe = target * valid
    if weight is not None or not _are_labels(safe, num_classes):
        return _read_labels(target, num_classes, weight, ignore_index, dtype)
    return Labels(safe.long(), as_numbers(valid, dtype), valid, one)


def as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """1 and 0 for True and False, in a sixth of the time that torch takes on a CPU for the same."""
    return mask.view(torch.uint8).to(dtype)


def one_hot(x: Tensor, labels: Tensor) -> Tensor:
    """Which of logits [B, C, *] are those of labels [B, *], bool; a compiler fuses it with what it is used for."""
    classes = torch.arange(x.shape[1], dtype=torch.int32, device=x.device)
    return per_channel(classes, x) == labels.unsqueeze(1).int()


def per_channel(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers [C] in a shape that goes with logits [B, C, *]."""
    return numbers.view(1, -1, *[1] * (like.dim() - 2))


def label_weight(target: Tensor, num_classes: int, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What each entry of `target` counts for, [B, *]: class weights for labels, 1 for soft targets [B, C, *]."""
    if target.is_floating_point():
        return torch.ones_like(target[:, 0])
    return _read_labels(target, num_classes, weight, ignore_index, torch.float32).weight


def not_ignored(target: Tensor, ignore_index: int) -> Tensor:
    """Where the target differs from `ignore_index`, bool in its shape."""
    if not target.is_floating_point() and target.dtype != torch.bool:
        limits = torch.iinfo(target.dtype)
        if not limits.min <= ignore_index <= limits.max:  # uint8 would wrap -100 to 156
            return torch.ones_like(target, dtype=torch.bool)
    return target != ignore_index


def named_entries(target: Tensor, ignore_index: int) -> Tensor:
    """Which entries have a target, bool [B, *] (of one in the logits' shape: any channel has)."""
    named = not_ignored(target, ignore_index)
    return named.any(1) if target.is_floating_point() else named


def _read_labels(
    target: Tensor, num_classes: int, weight: Tensor | None, ignore_index: int, dtype: torch.dtype
) -> Labels:
    labels = target.long()
    named = not_ignored(labels, ignore_index)
    usable = (labels >= 0) & (labels < num_classes) & named
    safe = torch.where(usable, labels, 0)
    per_entry, valid = named.to(dtype), named
    if weight is not None:
        check_weight_count(weight, num_classes)
        per_entry = torch.where(usable, weight.to(dtype)[safe], per_entry)
        valid = per_entry > 0
    spoiled = torch.where(usable == named, 1.0, torch.nan).to(dtype)
    return Labels(safe, per_entry, valid, spoiled)


def _are_labels(target: Tensor, num_classes: int, but: int | None = None) -> bool:
    """Whether all are classes, and clearly none is `but`. Asks the host."""
    lowest, highest = (int(edge) for edge in target.aminmax())
    return lowest >= 0 and highest < num_classes and (but is None or not lowest <= but <= highest)


def check_weight_count(weight: Tensor, num_classes: int, name: str = "weight") -> None:
    """Raise ValueError unless there is one weight per class."""
    if weight.numel() != num_classes:
        raise ValueError(f"{name} has {weight.numel()} entries; expected one for each of the {num_classes} classes")


def is_soft(logits: Shaped, target: Tensor) -> bool:
    """Whether the target holds one number per channel; a float target of any other shape raises ValueError."""
    if target.is_floating_point() and target.shape != logits.shape:
        raise ValueError(_misplaced_floats(logits, target))
    return target.is_floating_point()


def _misplaced_floats(logits: Shaped, target: Tensor) -> str:
    one_channel = " (target.unsqueeze(1))" if logits.shape[1:2] == (1,) and target.dim() == logits.dim() - 1 else ""
    return (
        f"float target of shape {tuple(target.shape)}; floats are accepted as one number per channel, in the logits' "
        f"shape {tuple(logits.shape)}{one_channel}; class labels must be integers: target.long() or target.byte()"
    )


def check_shapes(logits: Shaped, target: Tensor) -> None:
    """Raise ValueError unless `target` [B, *] holds integer labels for `logits` [B, C, *]."""
    expected = logits.shape[:1] + logits.shape[2:]
    if logits.dim() < 2 or target.shape != expected:
        raise ValueError(
            f"target of shape {tuple(target.shape)} does not fit logits of shape {tuple(logits.shape)}; expected "
            f"logits (N, C, …) and labels {tuple(expected)}"
        )
    if target.is_floating_point():
        raise ValueError(_misplaced_floats(logits, target))


def check_target(target: Tensor, num_classes: int, ignore_index: int) -> None:
    """Raise ValueError naming the labels [B, *] that are neither classes nor ignored, and how many. Asks the host."""
    labels = target.long()
    wrong = (labels != ignore_index) & ((labels < 0) | (labels >= num_classes))
    if bool(wrong.any()):
        found = Counter(labels[wrong].tolist())
        shown = ", ".join(f"{label} ({count} times)" for label, count in sorted(found.items())[:8])
        more = f", … {len(found)} different ones" if len(found) > 8 else ""
        raise ValueError(
            f"target holds labels out of range: {shown}{more}; expected 0 to {num_classes - 1} for {num_classes} "
            f"classes, or ignore_index {ignore_index}; map the labels of the data set, or name the ignored one"
        )
