"""What happens when a gradient is not finite: the step is not taken, and the user learns which files it came from."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segtrain.errors import TrainingError

Policy = Literal["raise", "skip"]


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
        self._seen: list[tuple[int, tuple[str, ...]]] = []

    def admits(self, norm: Tensor, step: int, ids: tuple[str, ...]) -> bool:
        """Whether the step may count. Under `raise` always True: `check` will end the run."""
        bad = ~torch.isfinite(norm.detach())
        if self.policy == "raise":
            self._bad = bad[None] if self._bad is None else torch.cat([self._bad, bad[None]])
            self._seen.append((step, ids))
            return True
        self.consecutive = self.consecutive + 1 if bool(bad) else 0
        if self.consecutive >= self.max_consecutive:
            raise TrainingError(
                f"step {step}: {self.consecutive} steps in a row had a non-finite gradient and were skipped "
                f"(train.max_nonfinite is {self.max_consecutive}). {_batch(ids)}. {_REMEDY}"
            )
        return self.consecutive == 0

    def fits(self, norm: Tensor, scale: float, step: int, ids: tuple[str, ...]) -> bool:
        """Whether a step of scaled fp16 gradients may count. Raises TrainingError when no scale is small enough."""
        finite = bool(torch.isfinite(norm))
        if not finite and scale < 1:
            raise TrainingError(
                f"step {step}: the gradient is not finite at any scale (the gradient scale is {scale:g}). "
                f"{_batch(ids)}. {_REMEDY}"
            )
        return finite

    def check(self) -> None:
        """Raise TrainingError if a step since the last call had a non-finite gradient. Synchronises once."""
        bad, seen = self._bad, self._seen
        self._bad, self._seen = None, []
        if bad is None or not bool(bad.any()):
            return
        step, ids = seen[int(bad.int().argmax())]
        raise TrainingError(
            f"step {step}: the gradient is not finite (NaN or infinite). {_batch(ids)}. {_REMEDY}, "
            "or train.on_nonfinite=skip to leave such steps out"
        )


_REMEDY = (
    "Try a lower optimizer.lr, optimizer.clip_norm=1, or train.amp=bf16 (or off); a label that is no class has the "
    "same effect, and --check-data finds it"
)


def _batch(ids: tuple[str, ...]) -> str:
    shown = ", ".join(ids[:8])
    return f"Batch: {shown}" + (f", … ({len(ids)} in all)" if len(ids) > 8 else "")
