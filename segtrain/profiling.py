"""Where the time of training steps goes, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from torch._C._autograd import DeviceType
from torch.profiler import profile

# what the operations that matter here are called; the first that a name contains counts
_WORDS = {
    "convolution_backward": "convolutions, backward",
    "convolution": "convolutions, forward",
    "batch_norm_backward": "batch normalisation, backward",
    "batch_norm": "batch normalisation, forward",
    "upsample": "resizing of features or logits",
    "interpolate": "resizing of features or logits",
    "softmax": "softmax of the criterion",
    "Optimizer.step": "the optimizer's step",
    "_fused_adam": "the optimizer's step",
    "_foreach": "updates of many weights at once (optimizer, clipping, average)",
    "pool": "pooling",
    "threshold_backward": "activations, backward",
    "clamp_min": "activations, forward",
    "DataLoader": "waiting for the loader",
    "scatter": "histograms of the mining",
    "gather": "picking the logit of the label",
    "copy_": "copies and conversions (precision, layout, device)",
    "cat": "joining of features",
    "addmm": "matrix products",
    "bmm": "matrix products",
    "mm": "matrix products",
    "group_norm_backward": "group normalisation, backward",
    "group_norm": "group normalisation, forward",
    "lerp": "the average of the weights",
    "sort": "sorting (statistics of a log step)",
    "nccl": "exchange between ranks",
    "gloo": "exchange between ranks",
    "allreduce": "exchange between ranks",
}


Result = TypeVar("Result")


class Heavy(NamedTuple):
    """One kind of work and what it took."""

    share: float  # of the time of all operations
    seconds: float  # per step
    calls: float  # per step
    words: str
    names: tuple[str, ...]  # of the operations, heaviest first


def unmeasured(measured: profile, work: Callable[..., Result]) -> Callable[..., Result]:
    """`work`, during which the profiler looks away."""

    def call(*args: Any) -> Result:
        activities = list(measured.activities)
        measured.toggle_collection_dynamic(False, activities)
        try:
            return work(*args)
        finally:
            measured.toggle_collection_dynamic(True, activities)

    return call


def heaviest(measured: profile, steps: int, most: int = 10) -> list[Heavy]:
    """The kinds of work that took most of the device's own time, heaviest first."""
    kinds: dict[str, dict[str, tuple[float, int]]] = {}
    for event in measured.key_averages():
        on_gpu = event.device_type == DeviceType.CUDA
        microseconds = float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        words = next((words for part, words in _WORDS.items() if part in event.key), event.key)
        kinds.setdefault(words, {})[event.key] = (microseconds, event.count)
    total = sum(time for operations in kinds.values() for time, _ in operations.values()) or 1.0
    found = []
    for words, operations in kinds.items():
        time = sum(time for time, _ in operations.values())
        calls = sum(count for _, count in operations.values())
        names = tuple(sorted(operations, key=lambda name: -operations[name][0]))
        found.append(Heavy(time / total, time / 1e6 / steps, calls / steps, words, names))
    return sorted(found, reverse=True)[:most]


def in_words(parts: list[Heavy]) -> Iterator[str]:
    """A line for each, for people."""
    for part in parts:
        names = ", ".join(part.names[:2]) + (", …" if len(part.names) > 2 else "")
        yield (
            f"{part.share:5.1%}  {1000 * part.seconds:8.2f} ms/step  {part.words}"
            + ("" if part.words == names else f"  ({names}; {part.calls:.0f} calls)")
        )
