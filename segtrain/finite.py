"""What happens when a gradient is not finite: the step is not taken, and the user learns which files it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from segtrain.data.paths import some
from segtrain.distributed import of_all_ranks
from segtrain.errors import TrainingError

Policy = Literal["raise", "skip"]


class NonFiniteError(TrainingError):
    """A gradient was not finite; `attempt` and `ranks` tell which batches it came from."""

    attempt = 0
    ranks: tuple[int, ...] = (0,)


class Attempt(NamedTuple):
    """A step that is about to be taken, and what there is to say if it must not."""

    step: int  # finished steps before it
    number: int  # attempts before it: with the accumulation, the position of its batches
    ids: tuple[str, ...]  # samples of this rank
    norm: Tensor  # of the gradient, the same on all ranks
    losses: Mapping[str, Tensor]  # of this rank; their means over the ranks are those of the step
    sums: Mapping[str, Tensor]  # of the losses of this rank's pixels, before any are mined


class FiniteGuard:
    """Watches the gradient norm, which is one number for all ranks.

    `raise` notes the first bad step on the device and tells when `check` is next called (before anything is logged or
    saved), so that good steps cost no synchronisation. `skip` has to know at once and reads one flag each step.
    """

    def __init__(self, policy: Policy = "raise", max_consecutive: int = 10) -> None:
        self.policy = policy
        self.max_consecutive = max_consecutive
        self.consecutive = 0
        self._bad: Tensor | None = None  # bool per step since the last check, on the device
        self._seen: list[Attempt] = []

    def admits(self, attempt: Attempt) -> bool:
        """Whether the step may count. Under `raise` always True: `check` will end the run."""
        bad = ~torch.isfinite(attempt.norm.detach())
        if self.policy == "raise":
            self._bad = bad[None] if self._bad is None else torch.cat([self._bad, bad[None]])
            self._seen.append(attempt)
            return True
        self.consecutive = self.consecutive + 1 if bool(bad) else 0
        if self.consecutive >= self.max_consecutive:
            raise _error(
                attempt,
                f"{self.consecutive} steps in a row had a non-finite gradient and were skipped "
                f"(train.max_nonfinite is {self.max_consecutive})",
            )
        return self.consecutive == 0

    def fits(self, attempt: Attempt, scale: float) -> bool:
        """Whether a step of scaled fp16 gradients may count. Raises NonFiniteError when no scale is small enough."""
        finite = bool(torch.isfinite(attempt.norm))
        if not finite and scale < 1:
            raise _error(attempt, f"the gradient is not finite at any scale (the gradient scale is {scale:g})")
        return finite

    @property
    def unread(self) -> Tensor | None:
        """On the device, whether a step since the last `check` had a non-finite gradient; None if it is known."""
        return None if self._bad is None else self._bad.any()

    def check(self, fine: bool = False) -> None:
        """Raise NonFiniteError if a step since the last call had a non-finite gradient.

        Synchronises once, but not where `unread` was read and all is `fine`.
        """
        bad, seen = self._bad, self._seen
        self._bad, self._seen = None, []
        if fine or bad is None or not bool(bad.any()):
            return
        first = seen[int(bad.int().argmax())]
        raise _error(
            first,
            "the gradient is not finite (NaN or infinite)",
            ", or train.on_nonfinite=skip to leave such steps out",
        )


_REMEDY = (
    "Try a lower optimizer.lr, optimizer.clip_norm=1, or train.amp=bf16 (or off); a label that is no class has the "
    "same effect, and --check-data finds it"
)


def _error(attempt: Attempt, trouble: str, more: str = "") -> NonFiniteError:
    """The error of a step, the same on all ranks; every rank takes part."""
    here = not all(bool(torch.isfinite(value)) for value in attempt.sums.values())
    losses = {name: float(value) for name, value in attempt.losses.items()}
    ids, guilty, values = zip(*of_all_ranks((attempt.ids, here, losses)), strict=True)
    ranks = tuple(rank for rank, bad in enumerate(guilty) if bad or not any(guilty))  # or only backward overflowed
    batches = [f"Batch{f' of rank {rank}' if len(ids) > 1 else ''}: {some(ids[rank], 8)}" for rank in ranks[:4]]
    told = [f"{name} {sum(one[name] for one in values) / len(values):g}" for name in losses]
    numbers = ", ".join([f"gradient norm {float(attempt.norm):g}", *told])
    error = NonFiniteError(f"step {attempt.step}: {trouble}: {numbers}. {'. '.join(batches)}. {_REMEDY}{more}")
    error.attempt, error.ranks = attempt.number, ranks
    return error
