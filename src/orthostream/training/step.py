"""One optimizer step: forward, backward, clip, update, with a guard against non-finite numbers."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from orthostream.training.settings import Micro, Mix

# Optimizers that can be told on the device to leave the weights alone.
TELL_ON_DEVICE = "_step_supports_amp_scaling"


@dataclass
class Meters:
    """Sums on the device since the last row of the log and since the epoch began; no step waits for them."""

    loss: Tensor
    steps: int
    correct: Tensor
    seen: int
    epoch_loss: Tensor
    epoch_steps: int

    @classmethod
    def empty(cls, device: torch.device) -> "Meters":
        def zero() -> Tensor:
            return torch.zeros((), dtype=torch.float64, device=device)

        return cls(zero(), 0, zero(), 0, zero(), 0)

    def add(self, loss: Tensor, correct: Tensor | None, seen: int) -> None:
        self.loss += loss
        self.epoch_loss += loss
        self.steps += 1
        self.epoch_steps += 1
        if correct is not None:
            self.correct += correct
            self.seen += seen

    def clear_interval(self) -> None:
        self.loss.zero_()
        self.correct.zero_()
        self.steps = self.seen = 0

    def clear_epoch(self) -> None:
        self.epoch_loss.zero_()
        self.epoch_steps = 0

    def state(self) -> dict[str, Any]:
        sums = torch.stack([self.loss, self.correct, self.epoch_loss]).cpu()
        return {"sums": sums, "counts": [self.steps, self.seen, self.epoch_steps]}

    def load(self, state: dict[str, Any]) -> None:
        for meter, value in zip((self.loss, self.correct, self.epoch_loss), state["sums"], strict=True):
            meter.copy_(value)
        self.steps, self.seen, self.epoch_steps = state["counts"]


def mean_of_meters(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The state of meters that another number of processes goes on with: each takes the mean of the former ones."""
    sums = torch.stack([state["sums"] for state in states]).mean(0)
    counts = [round(sum(values) / len(states)) for values in zip(*(s["counts"] for s in states), strict=True)]
    return {"sums": sums, "counts": counts}


@dataclass(frozen=True)
class Gradient:
    """What the backward passes of a step left behind.

    Args:
        loss: mean over the micro-batches of this process.
        norm: global L2 norm of the gradient before clipping.
        correct: correct at first choice, where labels are class numbers.
        seen: labels that ``correct`` counts; batches of training hold none that is ignored.
    """

    loss: Tensor
    norm: Tensor
    correct: Tensor | None
    seen: int


class Stepper:
    """Computes gradients and applies them.

    A loss or gradient that is not finite must not reach the weights. On the CPU looking costs nothing and
    happens every step. On CUDA looking would make the host wait, so the flag stays on the device: from the
    first bad step on the optimizer is told to leave the weights as they are, and the host looks when it
    next has to wait anyway. With float16 a gradient that overflows is ordinary: the scaler skips the step.

    Args:
        model: what is called, possibly compiled and wrapped for DDP.
        optimizer: its step.
        criterion: ``(logits, targets) -> loss``, a mean over labels; classes are axis 1 of the logits.
        mix: mixes samples and labels on the device; None for none.
        device: where.
        accumulate: micro-batches a step.
        clip_norm: largest global L2 norm of the gradient.
        autocast_dtype: of the forward pass; float16 brings the gradient scaler.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        criterion: nn.Module,
        *,
        mix: Mix | None,
        device: torch.device,
        accumulate: int,
        clip_norm: float | None,
        autocast_dtype: torch.dtype | None,
    ) -> None:
        self.model, self.optimizer, self.criterion, self.mix = model, optimizer, criterion, mix
        self.device, self.accumulate, self.clip_norm = device, accumulate, clip_norm
        self.autocast_dtype = autocast_dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=autocast_dtype is torch.float16)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._is_bad = torch.zeros((), device=device)
        self._looks_every_step = device.type == "cpu" or not getattr(optimizer, TELL_ON_DEVICE, False)

    def gradient(self, micros: tuple[Micro, ...], epoch: int, step_in_epoch: int, before_last: Any) -> Gradient:
        """Accumulate the gradient of one step; ``before_last`` is called before its last forward pass."""
        losses: list[Tensor] = []
        correct: Tensor | None = None
        seen = 0
        for index, (images, labels) in enumerate(micros):
            is_last = index == len(micros) - 1
            images = images.to(self.device, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            targets = labels
            if self.mix is not None:
                images, targets = self.mix(images, labels, epoch, step_in_epoch, index)
            if is_last:
                before_last()
            with self._without_sync(not is_last):
                with torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
                    logits = self.model(images)
                loss = self.criterion(logits.float() if self.autocast_dtype else logits, targets)
                self.scaler.scale(loss / self.accumulate).backward()
            losses.append(loss.detach())
            if self.mix is None:
                hits = (logits.detach().argmax(1) == labels).sum()
                correct = hits if correct is None else correct + hits
                seen += labels.numel()
        self.scaler.unscale_(self.optimizer)
        grads = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.clip_norm, norm)
        loss = torch.stack(losses).double().mean()
        is_finite = loss.isfinite() if self.scaler.is_enabled() else loss.isfinite() & norm.isfinite()
        self._is_bad = torch.maximum(self._is_bad, (~is_finite).float())
        return Gradient(loss, norm, correct, seen)

    def is_bad(self, must_look: bool = False) -> bool:
        """Whether a non-finite number came up; looks only where that is free or has to be."""
        return (self._looks_every_step or must_look) and bool(self._is_bad)

    def update(self, lr: float) -> bool:
        """Apply the gradient; False where the float16 scaler skipped the step."""
        for group in self.optimizer.param_groups:
            # A group may have its own share of the scheduled rate.
            group["lr"] = lr * group.get("lr_share", 1.0)
        if self.scaler.is_enabled():
            scale = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            applied = self.scaler.get_scale() >= scale
        else:
            if not self._looks_every_step:
                self.optimizer.found_inf = self._is_bad  # type: ignore[attr-defined]
            self.optimizer.step()
            applied = True
        self.optimizer.zero_grad(set_to_none=True)
        return applied

    def _without_sync(self, is_wanted: bool) -> Any:
        """Under DDP gradients of all but the last micro-batch stay local."""
        wrapped = getattr(self.model, "_orig_mod", self.model)
        return wrapped.no_sync() if is_wanted and isinstance(wrapped, DistributedDataParallel) else nullcontext()
