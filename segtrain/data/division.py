"""Dividing samples into splits: shares kept, classes spread evenly, groups never torn apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def divided(
    presence: npt.NDArray[np.bool_], shares: Sequence[float], *, groups: Sequence[str] | None = None, seed: int = 0
) -> list[list[int]]:
    """The samples of each split, sorted.

    `presence` [N, K] tells which classes each sample holds, `groups` which samples belong together (None: each is one
    of its own). Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label
    data", ECML PKDD 2011), of groups instead of samples: the rarest class goes first, each of its groups to the split
    that lacks it most, as long as that split has room. Of splits that lack it alike the one with most room wins, then
    chance.
    """
    rng = np.random.default_rng(seed)
    names = list(range(len(presence))) if groups is None else list(groups)
    members: dict[object, list[int]] = {}
    for sample, name in enumerate(names):
        members.setdefault(name, []).append(sample)
    parts = list(members.values())
    counts = np.array([presence[part].sum(0) for part in parts], np.int64).reshape(len(parts), -1)  # [G, K]
    sizes = np.array([len(part) for part in parts])
    room = _whole(len(presence), shares)
    lack = np.outer(shares, counts.sum(0))  # [splits, K]
    split_of = np.full(len(parts), -1)
    for group in _in_order(counts, sizes, rng):
        held = counts[group] > 0
        rarest = _rarest(counts, split_of, held)
        empty = ~np.isin(np.arange(len(shares)), split_of)
        last = empty.sum() >= (split_of < 0).sum()  # so that no split is left without a group
        need = lack[:, rarest] if rarest is not None else room
        chosen = _neediest(room, need, empty if last and empty.any() else np.ones_like(empty), sizes[group], rng)
        split_of[group] = chosen
        room[chosen] -= sizes[group]
        lack[chosen] -= counts[group]
    return [
        sorted(sample for part, split in zip(parts, split_of, strict=True) if split == number for sample in part)
        for number in range(len(shares))
    ]


def _whole(total: int, shares: Sequence[float]) -> npt.NDArray[np.float64]:
    """Whole numbers in the ratio of the shares that add up to the total: the largest remainders are rounded up."""
    exact = total * np.asarray(shares, np.float64)
    numbers = np.floor(exact + 1e-9)
    for split in np.argsort(numbers - exact, kind="stable")[: total - int(numbers.sum())]:
        numbers[split] += 1
    return numbers


def _in_order(
    counts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Groups of the rarest class first, large ones before small ones, what is left to chance last."""
    frequency = (counts > 0).sum(0)
    rarity = np.where(counts > 0, frequency, len(counts) + 1).min(1, initial=len(counts) + 1)
    return np.lexsort((rng.random(len(counts)), -sizes, rarity))


def _rarest(counts: npt.NDArray[np.int64], split_of: npt.NDArray[np.int64], held: npt.NDArray[np.bool_]) -> int | None:
    """Of the classes that a group holds, the one that fewest of the open groups hold."""
    if not held.any():
        return None
    left = (counts[split_of < 0] > 0).sum(0)
    return int(np.flatnonzero(held)[left[held].argmin()])


def _neediest(
    room: npt.NDArray[np.float64],
    lack: npt.NDArray[np.float64],
    allowed: npt.NDArray[np.bool_],
    size: int,
    rng: np.random.Generator,
) -> int:
    """The allowed split that lacks most; one without room for at least half of the group only if all are."""
    roomy = allowed & (room >= size / 2)
    candidates = np.flatnonzero(roomy if roomy.any() else allowed & (room == room[allowed].max()))
    keys = (rng.random(len(candidates)), -room[candidates], -lack[candidates].round(6))
    return int(candidates[np.lexsort(keys)[0]])
