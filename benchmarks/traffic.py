"""What a step of the criterion reads and writes in the memory of a GPU, launch by launch, counted without a GPU.

    python benchmarks/traffic.py
    python benchmarks/traffic.py --launches

Forward and backward run on tensors that have a shape and no numbers. What an operator of torch is given is read and
what it returns is written, each once; a selection reads its scores three times, and backward leaves out the sectors
of 32 bytes without a mined pixel, whose share is an estimate. `floor` is that of benchmarks/criterion.py: logits read
twice and their gradient written, the label of each pixel twice and four numbers of 4 bytes. What a cache saves is not
counted, and what is smaller than a map of the pixels only in the number of launches.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segtrain.losses.criterion import Criterion, bootstrapped_ce
from segtrain.task import Task

SHAPES = [(8, 19, 512, 1024), (16, 150, 512, 512)]
READ_AGAIN = {torch.bfloat16: 0.6, torch.float32: 0.4}  # part of the logits' sectors that hold a mined pixel, p = 0.15
PASSES = {"segtrain::take_largest": 3}  # over the scores
OPTIONS: dict[str, dict[str, Any]] = {
    "mined": {"top_p": 0.15},
    "mean": {"top_p": 1.0},
    "mined, by image": {"top_p": 0.15, "scope": "image"},
    "mined, weighted, smoothed": {"top_p": 0.15, "label_smoothing": 0.1, "class_weights": True},
}


class Launch(NamedTuple):
    """An operator that moves numbers."""

    name: str
    read: float  # bytes
    written: float


class Traffic(TorchDispatchMode):
    """Notes what each operator moves; views move nothing."""

    def __init__(self, read_again: float) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self._read_again = read_again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if not func.is_view and name not in ("aten::empty", "aten::empty_like", "aten::detach"):
            given = {id_of(one): one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}  # each once
            read = [_bytes(one) for one in given.values()]
            written = sum(_bytes(one) for one in tree_leaves(result) if isinstance(one, Tensor))
            if name == "segtrain::pixel_loss_backward":
                read[0] *= self._read_again
            self.launches.append(Launch(name, sum(read) * PASSES.get(name, 1), written))
        return result


def id_of(tensor: Tensor) -> tuple[int, int]:
    return tensor.untyped_storage()._cdata, tensor.storage_offset()


def _bytes(tensor: Tensor) -> float:
    """Of the numbers in memory: what is expanded is one of them."""
    numbers = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= size if stride else min(size, 1)
    return float(numbers * tensor.element_size())


def launches(shape: tuple[int, ...], dtype: torch.dtype, target_dtype: torch.dtype, **options: Any) -> list[Launch]:
    """What forward and backward of a mined cross entropy launch for logits of this shape."""
    batch, classes, *size = shape
    criterion = _criterion(classes, **options)
    read_again = READ_AGAIN[dtype] if options["top_p"] < 1 else 1.0
    logits = torch.empty(shape, dtype=dtype, requires_grad=True, device="meta")
    target = torch.empty(batch, *size, dtype=target_dtype, device="meta")
    with Traffic(read_again) as traffic:
        criterion.to("meta")(logits, target, 0).value.backward()
    return traffic.launches


def floor(shape: tuple[int, ...], dtype: torch.dtype, target_dtype: torch.dtype, top_p: float) -> float:
    """The least bytes per pixel."""
    again = READ_AGAIN[dtype] if top_p < 1 else 1.0
    return (2 + again) * shape[1] * dtype.itemsize + 2 * target_dtype.itemsize + 16


def _criterion(classes: int, *, class_weights: bool = False, **options: Any) -> Criterion:
    names = tuple(map(str, range(classes)))
    weights = [2.0] * classes if class_weights else None
    return bootstrapped_ce(Task("segmentation", names, ((0, 0, 0),) * classes), class_weights=weights, **options)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--launches", action="store_true", help="each of them")
    args = p.parse_args()
    print(
        "| logits | labels | criterion | bytes per pixel | logits and gradient | floor | times | launches |\n|"
        + "---|" * 8
    )
    for shape in SHAPES:
        for target_dtype in (torch.int64, torch.uint8):
            for what, options in OPTIONS.items():
                report(what, shape, torch.bfloat16, target_dtype, options, args.launches)


def report(what, shape, dtype, target_dtype, options, each) -> None:
    found = launches(shape, dtype, target_dtype, **options)
    pixels = shape[0] * shape[2] * shape[3]
    total = sum(one.read + one.written for one in found) / pixels
    least = floor(shape, dtype, target_dtype, options["top_p"])
    logits = least - 2 * target_dtype.itemsize - 16
    print(
        f"| {'x'.join(map(str, shape))} {str(dtype)[6:]} | {str(target_dtype)[6:]} | {what} | {total:.0f} | "
        f"{logits:.0f} | {least:.0f} | {total / least:.2f} | {len(found)} |"
    )
    if each:
        for one in found:
            print(f"  {one.name:40} {one.read / pixels:8.2f} {one.written / pixels:8.2f}")


if __name__ == "__main__":
    main()
