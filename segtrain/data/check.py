"""A look at samples before training starts, so that wrong labels do not cost a night."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from segtrain.data.dataset import Dataset
from segtrain.data.feed import Feed, Key, Source, Workers, num_workers
from segtrain.data.labels import OWN_VALUES, ranges
from segtrain.data.paths import some
from segtrain.data.transforms import compose
from segtrain.errors import DataError
from segtrain.task import Sample

WITHOUT_THEM = "{name: readable, of: {…}} around the data set (docs/data.md)"


def check_labels(dataset: Dataset, count: int = 64, *, show: int = 5, workers: Workers = 0) -> str:
    """Read `count` samples, evenly spread, and return one line about their labels.

    Raises DataError that lists up to `show` samples that cannot be read or hold labels outside of the table, or that
    says that nothing but one class and ignored pixels was found, as in 0/255 masks that were meant to be binary.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)).tolist()
    seen: set[int] = set()
    errors: list[DataError] = []
    known = {*range(len(dataset.labels.names)), dataset.labels.ignore_index}
    for index, found in look_at(dataset, chosen, workers=workers):
        if isinstance(found, DataError):
            errors.append(found)
        elif strange := found - known:
            errors.append(
                DataError(
                    f"{dataset.path(index)}: holds the train ids {ranges(strange)}; the {len(dataset.labels.names)} "
                    f"classes have 0..{len(dataset.labels.names) - 1}, and {dataset.labels.ignore_index} is ignored"
                )
            )
        else:
            seen |= found
    if errors:
        more = [f"… and {len(errors) - show} more"] if len(errors) > show else []
        told = [message for error in errors[:show] for message in error.messages]
        few = [f"to train without such files: {WITHOUT_THEM}"] if len(errors) < len(chosen) / 2 else []
        raise DataError(
            f"label check: {len(errors)} of {len(chosen)} sampled files cannot be used:", *told, *more, *few
        )
    spec, ignored = dataset.labels, dataset.labels.ignore_index
    if chosen and seen <= {ignored}:
        raise DataError(
            f"label check: all {len(chosen)} sampled masks hold nothing but ignored pixels ({ignored}), so there is "
            "nothing to learn from"
            + ("; see what they mean and name it in values: {raw value: class}" if spec.configured else "")
        )
    if problem := only_the_first_class(dataset, seen, len(chosen)):
        raise DataError(f"label check: {problem}")
    absent = [name for i, name in enumerate(spec.names) if i not in seen] if dataset.kind == "segmentation" else []
    return f"labels of {len(chosen)} samples ok" + (f", without {some(absent)}" if absent else "")


def only_the_first_class(dataset: Dataset, seen: set[int], count: int) -> str | None:
    """What to say if `seen`, the ids in `count` label files, are class 0 and ignored: likely 0/255 masks."""
    spec, ignored = dataset.labels, dataset.labels.ignore_index
    if seen != {0, ignored} or spec.table.get(ignored) != ignored or len(spec.names) == 1:
        return None
    first, second = spec.names[:2]
    seen_so = f"all {count} sampled masks hold only {{0, {ignored}}} and {ignored} is ignored, so every valid pixel is "
    if not spec.configured:
        return f"{seen_so}class 0 ({first}), which is not this data set. {OWN_VALUES}"
    cure = f"If {ignored} means {second}, set values: {{0: {first}, {ignored}: {second}}}"
    return f"{seen_so}class 0 ({first}). {cure}"


def look_at(
    dataset: Dataset, indices: Sequence[int], *, workers: Workers = "auto"
) -> Iterator[tuple[int, set[int] | DataError]]:
    """Each index with the labels that its sample holds, or with the error that it cannot be read.

    Raises DataError where a file is so bad that it takes the process down that reads it.
    """
    chunks = [indices[i : i + 8] for i in range(0, len(indices), 8)]
    keys = [[Key(0, index) for index in chunk] for chunk in chunks]
    feed = Feed(Source(dataset, compose(()), 0), lambda: iter(keys), _labels, num_workers(workers), timeout_s=600)
    for chunk, found in zip(chunks, feed, strict=True):
        yield from zip(chunk, found, strict=True)


def _labels(samples: Sequence[Sample | DataError]) -> list[set[int] | DataError]:
    return [sample if isinstance(sample, DataError) else set(np.unique(sample.target).tolist()) for sample in samples]
