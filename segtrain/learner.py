"""A model in training, and the one step that changes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segtrain.distributed import of_all_ranks, rank, sum_over_ranks, world_size
from segtrain.errors import CheckpointError
from segtrain.finite import Attempt, FiniteGuard
from segtrain.losses.criterion import Criterion
from segtrain.models.common import upsampling_deferred
from segtrain.optim import Encoder, by_name, load_by_name
from segtrain.parallel import load_full, spread, whole
from segtrain.precision import Precision
from segtrain.randomness import restore_rng, rng_state
from segtrain.schedule import Schedule
from segtrain.task import Batch, Output, logits_of
from segtrain.upsampling import Logits

Logs = dict[str, Tensor]


class Learner:
    """All that one optimizer step reads and changes; `state_dict` is complete, so a resumed run goes on exactly."""

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        lr: Schedule,
        *,
        precision: Precision,
        clip_norm: float | None = None,
        encoder: Encoder | None = None,
        ema: ModelEmaV3 | None = None,
        guard: FiniteGuard | None = None,
        forward: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.forward = model if forward is None else forward  # the same module, compiled or in DistributedDataParallel
        self.criterion = criterion
        self.optimizer = optimizer
        self.lr = lr  # the factor on every group's base_lr
        self.precision = precision
        self.scaler = precision.scaler()
        self.clip_norm = float("inf") if clip_norm is None else clip_norm
        self.encoder = encoder or Encoder(model)  # at rest in the first steps
        self.ema = ema
        self.guard = guard or FiniteGuard()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.step = 0  # finished optimizer steps: what every schedule is a function of
        self.skipped = 0  # attempts that did not count (non-finite gradients)
        self.logs: Logs = {}  # sums over the steps since they were last read, on the device

    def update(self, batches: Sequence[Batch]) -> Logits:
        """One optimizer step over micro-batches; returns the logits of the last one."""
        self.optimizer.zero_grad(set_to_none=True)  # the forward pass reuses what the gradients of the last step held
        self.forward.train()
        self.encoder.keep_statistics(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.lr(self.step)
        logs: Logs = {}
        for batch, share in zip(batches, self._shares(batches), strict=True):
            with self._gradients_stay_local(batch is not batches[-1]):
                with self.precision.autocast(), upsampling_deferred(self.model):
                    output: Logits | Output = self.forward(batch.image)
                self.check_output(output, batch)
                loss = self.criterion(output, batch.target, self.step, share)
                self.scaler.scale(loss.value).backward()
            _add(logs, loss.logs)
        self.encoder.drop_gradients(self.step)
        self.scaler.unscale_(self.optimizer)
        norm = whole(nn.utils.clip_grad_norm_(self.parameters, self.clip_norm))
        if self._takes_step(self._attempt(batches, norm, logs)):
            self.step += 1
            _add(self.logs, {**logs, "grad_norm": norm, "updates": torch.ones_like(norm)})
            if self.ema is not None:
                self.ema.update(self.model, self.step)
        return logits_of(output).detach()

    def check_output(self, output: Any, batch: Batch) -> None:
        """Raise ValueError unless a model, which may be a user's own, gives what the criterion reads."""
        logits = logits_of(output)
        wanted = (*batch.target.shape[:1], self.criterion.channels, *batch.target.shape[1:])
        if tuple(getattr(logits, "shape", ())) != wanted:
            gave = tuple(logits.shape) if hasattr(logits, "shape") else f"a {type(logits).__name__}"
            raise ValueError(
                f"the model gave {gave} for images {tuple(batch.image.shape)}; expected logits of {wanted}: a channel "
                "for each class, and the height and width of the image"
            )

    def _shares(self, batches: Sequence[Batch]) -> Sequence[Tensor | None]:
        """Each micro-batch's part of the step, by the weight of its valid pixels; a step of one batch needs none."""
        if len(batches) == 1:
            return [None]
        mass = sum_over_ranks(torch.stack([self.criterion.mass(batch.target) for batch in batches]))
        return list(mass / mass.sum(0).clamp_min(torch.finfo(mass.dtype).tiny))

    def _gradients_stay_local(self, local: bool) -> AbstractContextManager[Any]:
        """Ranks exchange gradients once a step, with the last micro-batch."""
        return self.forward.no_sync() if local and isinstance(self.forward, DistributedDataParallel) else nullcontext()

    def _attempt(self, batches: Sequence[Batch], norm: Tensor, logs: Logs) -> Attempt:
        ids = tuple(i for batch in batches for i in batch.ids)
        losses, sums = (
            {key.removeprefix(tag): logs[key] for key in logs if key.startswith(tag)} for tag in ("loss/", "all_total/")
        )
        return Attempt(self.step, self.step + self.skipped, ids, norm.detach(), losses, sums)

    def _takes_step(self, attempt: Attempt) -> bool:
        if self.scaler.is_enabled():  # fp16 overflows now and then, and the scaler waits for the device anyway
            taken = self.guard.fits(attempt, self.scaler.get_scale())
            self.scaler.step(self.optimizer)  # leaves the optimizer alone where a gradient is not finite
            self.scaler.update()
        elif taken := self.guard.admits(attempt):
            self._gate(attempt.norm)
            self.optimizer.step()
        self.skipped += not taken
        return taken

    def _gate(self, norm: Tensor) -> None:
        """Fused optimizers look at a flag on the device and leave the weights alone, with no synchronisation."""
        if self.optimizer.defaults.get("fused"):
            self.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]

    def read_logs(self, more: Mapping[str, Tensor] | None = None) -> dict[str, float]:
        """What the steps since the last call logged, as numbers over all ranks.

        `more`: scalars by tag that are read with them. Everything comes in one transfer, the only wait for the device.
        """
        if not self.logs:
            self.guard.check()
            return {}
        sums, self.logs = self.logs, {}
        norm, updates, bad = sums.pop("grad_norm"), sums.pop("updates"), self.guard.unread
        here = {**(more or {}), "train/grad_norm": norm / updates, "bad": norm.new_zeros(()) if bad is None else bad}
        totals = sum_over_ranks(torch.stack(list(sums.values())))
        numbers = torch.cat([totals, torch.stack([value.double() for value in here.values()])]).tolist()
        read = dict(zip((*sums, *here), numbers, strict=True))
        self.guard.check(fine=not read["bad"])
        scalars = {**self.criterion.scalars(read), **{tag: read[tag] for tag in here if tag != "bad"}}
        for group in self.optimizer.param_groups:
            scalars[f"optim/lr/{group['name']}"] = float(group["lr"])
        scalars["optim/weight_decay"] = max(float(g.get("weight_decay", 0)) for g in self.optimizer.param_groups)
        if self.ema is not None:
            scalars["optim/ema_decay"] = self.ema.get_decay(self.step)
        if self.scaler.is_enabled():
            scalars["train/loss_scale"] = self.scaler.get_scale()
        if self.skipped:
            scalars["train/skipped_steps"] = float(self.skipped)
        return scalars

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, in plain values and tensors, sharded ones as they are.

        Every rank calls it.
        """
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": by_name(self.optimizer, self.model),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "consecutive": self.guard.consecutive,
            "rng": of_all_ranks(rng_state()),
            "logs": of_all_ranks({name: float(value) for name, value in self.logs.items()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`, on a learner built from the same configuration; CheckpointError if it is not."""
        try:
            load_full(self.model, state["model"])
            if self.ema is not None:
                # a run that averages only from here on begins its average with the weights of the checkpoint
                load_full(self.ema.module, state["ema"] or state["model"])
            load_by_name(self.optimizer, self.model, self._spread(state["optimizer"]))
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint does not fit the configuration: {error}") from error
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.skipped = state["step"], state["skipped"]
        self.guard.consecutive = state["consecutive"]
        if len(state["rng"]) == world_size():  # another number of ranks goes on with numbers of its own
            restore_rng(state["rng"][rank()])
            zero = torch.zeros((), dtype=torch.float64, device=self.precision.device)
            self.logs = {name: zero + value for name, value in state["logs"][rank()].items()}

    def _spread(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """The saved state of the optimizer with each tensor laid out over the ranks as its parameter is."""
        like = dict(self.model.named_parameters())
        state = {
            name: {key: spread(value, like.get(name)) for key, value in values.items()}
            for name, values in saved["state"].items()
        }
        return {**saved, "state": state}


def _add(sums: Logs, logs: Mapping[str, Tensor]) -> None:
    for name, value in logs.items():
        value = value.detach().double()
        sums[name] = sums[name] + value if name in sums else value
