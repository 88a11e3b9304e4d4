"""What a step of the criterion reads and writes in the memory of a GPU, launch by launch, counted without a GPU.

    python benchmarks/traffic.py
    python benchmarks/traffic.py --launches

Forward and backward run on tensors that have a shape and no numbers. What an operator of torch is given is read and
what it returns is written, each once; a selection reads its scores three times, and backward leaves out the sectors
of 32 bytes without a mined pixel, whose share is an estimate. `floor` is that of benchmarks/criterion.py: logits read
twice and their gradient written, the label of each pixel twice and four numbers of 4 bytes. The gradient of logits at
low resolution is added up in float32 by four launches, which write all of it and but for the first read it. What a
cache saves is not counted, and what is smaller than a map of the pixels only in the number of launches. What topk moves
inside is not counted either. Memory is the peak of what is made beside logits and target.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segtrain.losses import components
from segtrain.losses.criterion import Criterion, as_criterion, bootstrapped_ce
from segtrain.task import Task
from segtrain.upsampling import Upsampled, full_resolution

SHAPES = [(8, 19, 512, 1024), (16, 150, 512, 512)]
READ_AGAIN = {torch.bfloat16: 0.6, torch.float32: 0.4}  # part of the logits' sectors that hold a mined pixel, p = 0.15
PASSES = {"segtrain::take_largest": 3}  # over the scores
INSIDE = {"segtrain::take_largest": 7, "segtrain::cut_sums": 2}  # launches
BACKWARD = "segtrain::pixel_loss_backward"
SILENT = ("aten::empty", "aten::empty_like", "aten::new_empty", "aten::detach", "aten::scalar_tensor")
TOP_P = 0.15
EAGER = "eager CE, topk, mean"
OPTIONS: dict[str, dict[str, Any]] = {
    EAGER: {"top_p": TOP_P},
    "mined": {"top_p": TOP_P},
    "mined, by image": {"top_p": TOP_P, "scope": "image"},
    "mined, weights and smoothing": {"top_p": TOP_P, "label_smoothing": 0.1, "class_weights": True},
    "mined, p = 1": {"top_p": 1.0},
    "mean": {},
}


class Launch(NamedTuple):
    """What an operator moves, in bytes, and how many kernels it starts."""

    name: str
    read: float
    written: float
    launches: int


class Traffic(TorchDispatchMode):
    """Notes what each operator moves; views move nothing. Backward reads `read_again` times what forward has read."""

    def __init__(self, read_again: float, upsampled: bool) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self.peak = 0.0  # bytes of what was made and not yet dropped
        self._read_again, self._upsampled = read_again, upsampled
        self._made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if not func.is_view and name not in SILENT:
            given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
            places = {(one.untyped_storage()._cdata, one.storage_offset()): _bytes(one) for one in given}
            inside, launches = 0.0, INSIDE.get(name, 1)
            if name == BACKWARD:
                places |= {place: self._read_again * read for place, read in list(places.items())[:1]}  # the logits
            read = sum(places.values()) * PASSES.get(name, 1)
            written = sum(_bytes(one) for one in tree_leaves(result) if isinstance(one, Tensor))
            if name == BACKWARD and self._upsampled:  # four sums, and maybe a rounded copy of these
                rounded = result.dtype != torch.float32
                single, launches = 4.0 * result.numel(), 4 + rounded
                read, written = read + (3 + rounded) * single, written + (3 + rounded) * single
                inside = single * rounded
            self.launches.append(Launch(name, read, written, launches))
            self._hold(result, inside)
        return result

    def _hold(self, result: Any, inside: float) -> None:
        self._made = {one: size for one, size in self._made.items() if not one.expired()}
        for one in tree_leaves(result):
            if isinstance(one, Tensor):
                storage = one.untyped_storage()
                self._made[StorageWeakRef(storage)] = storage.nbytes()
        self.peak = max(self.peak, sum(self._made.values()) + inside)


def _bytes(tensor: Tensor) -> float:
    """Of the numbers in memory: what is expanded is one of them."""
    numbers = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= size if stride else min(size, 1)
    return float(numbers * tensor.element_size())


def traffic(shape: Sequence[int], dtype: torch.dtype, labels: torch.dtype, what: str, factor: int = 1) -> Traffic:
    """What forward and backward of cross entropy move for logits of this shape, made of those at 1/factor of it."""
    batch, classes, *size = shape
    low = torch.empty(batch, classes, *(one // factor for one in size), dtype=dtype, requires_grad=True, device="meta")
    target = torch.empty(batch, *size, dtype=labels, device="meta")
    logits = low if factor == 1 else Upsampled(low, (size[0], size[1]), (size[0], size[1]), True)
    criterion = None if what == EAGER else _criterion(classes, **OPTIONS[what]).to("meta")
    with Traffic(4.0 if factor > 1 else _read_again(dtype, what), factor > 1) as seen:
        loss = (
            eager(full_resolution(logits), target.long()) if criterion is None else criterion(logits, target, 0).value
        )
        loss.backward()
    return seen


def eager(logits: Tensor, target: Tensor) -> Tensor:
    """As everybody writes it; autocast makes float32 of the logits for the cross entropy."""
    losses = F.cross_entropy(logits.float(), target, ignore_index=255, reduction="none").flatten()
    return losses.topk(int(TOP_P * losses.numel())).values.mean()


def floor(classes: int, dtype: torch.dtype, labels: torch.dtype, what: str, factor: int = 1) -> float:
    """The least bytes per pixel."""
    again = _read_again(dtype, what) if factor == 1 else 1.0
    return (2 + again) * classes * dtype.itemsize / factor**2 + 2 * labels.itemsize + 16


def _read_again(dtype: torch.dtype, what: str) -> float:
    return READ_AGAIN[dtype] if OPTIONS[what].get("top_p", 1.0) < 1 else 1.0


def _criterion(classes: int, *, class_weights: bool = False, **options: Any) -> Criterion:
    names = tuple(map(str, range(classes)))
    task = Task("segmentation", names, ((0, 0, 0),) * classes)
    if not options:
        return as_criterion(components.cross_entropy(task), task)
    return bootstrapped_ce(task, class_weights=[2.0] * classes if class_weights else None, **options)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--amp", choices=["bf16", "off"], default="bf16", help="logits in bfloat16 or float32")
    p.add_argument("--launches", action="store_true", help="also what each of them moves")
    p.add_argument("--upsample", action="store_true", help="logits at 1/4 of the size, upsampled for the loss")
    args = p.parse_args()
    factor = 4 if args.upsample else 1
    dtype = torch.bfloat16 if args.amp == "bf16" else torch.float32
    print(f"{args.amp}\n\n| classes | labels | criterion | bytes per pixel | floor | times | launches | extra MiB |")
    print("|" + "---|" * 8)
    for shape, labels, what in itertools.product(SHAPES, (torch.int64, torch.uint8), OPTIONS):
        seen = traffic(shape, dtype, labels, what, factor)
        pixels = shape[0] * shape[2] * shape[3]
        moved = sum(one.read + one.written for one in seen.launches) / pixels
        least = floor(shape[1], dtype, labels, what, factor)
        number = sum(one.launches for one in seen.launches)
        print(
            f"| {shape[1]} | {str(labels)[6:]} | {what} | {moved:.0f} | {least:.0f} | {moved / least:.2f} | {number} | "
            f"{seen.peak / 2**20:.0f} |"
        )
        for one in seen.launches if args.launches else []:
            print(f"    {one.name:32} read {one.read / pixels:7.2f}  written {one.written / pixels:7.2f}")


if __name__ == "__main__":
    main()
