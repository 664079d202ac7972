"""Learning-rate schedules: pure functions of the optimizer step, so there is no state to save.

With E steps an epoch and W = E * warmup_epochs, step t < W has factor t / W (or a constant). Afterwards
u = (t - W) / max(1, epochs * E - W), held at 1 where training goes on beyond it, and the factor is
``0.5 (1 + cos(pi u))``, ``1 - u``, 1, or ``ratio`` to the number of listed epochs that have passed. A floor
``min_lr`` maps a factor f to ``r + (1 - r) f`` with ``r = min_lr / lr``; the warm-up is left as it is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["cosine", "linear", "constant", "step"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate of each optimizer step, as a function.

    Args:
        lr: peak learning rate.
        kind: shape after the warm-up.
        steps_per_epoch: optimizer steps an epoch.
        epochs: length of the schedule in epochs.
        warmup_epochs: length of the warm-up in epochs.
        warmup: ``linear`` rises from 0; ``constant`` stays at ``warmup_factor``.
        warmup_factor: share of ``lr`` during a constant warm-up.
        min_lr: floor after the warm-up, in units of the learning rate.
        decay_epochs: epochs of a step schedule, counted from the start of training.
        decay_ratio: factor at each of these.
        first_step: ``zero`` gives step t the factor t / W, so the first step does not move (the authors'
            program); ``one`` gives (t + 1) / W.

    Reference:
        The schedules of the authors' program of arXiv:2505.11881, whose cosine is not held at its end.
    """

    lr: float
    kind: Kind = "cosine"
    steps_per_epoch: int
    epochs: int
    warmup_epochs: int = 0
    warmup: Literal["linear", "constant"] = "linear"
    warmup_factor: float = 0.1
    min_lr: float | None = None
    decay_epochs: Sequence[int] = ()
    decay_ratio: float = 0.1
    first_step: Literal["zero", "one"] = "zero"

    def __call__(self, step: int) -> float:
        """Learning rate of optimizer step ``step``, counted from 0."""
        warm = self.steps_per_epoch * self.warmup_epochs
        if step < warm:
            if self.warmup == "constant":
                return self.lr * self.warmup_factor
            return self.lr * (step + (self.first_step == "one")) / warm
        progress = (step - warm) / max(1, self.epochs * self.steps_per_epoch - warm)
        factor = SHAPES[self.kind](self, step, min(progress, 1.0))
        if self.min_lr is not None:
            floor = min(self.min_lr / self.lr, 1.0)
            factor = floor + (1 - floor) * factor
        return self.lr * factor


def _decayed(schedule: Schedule, step: int, progress: float) -> float:
    passed = sum(step >= epoch * schedule.steps_per_epoch for epoch in schedule.decay_epochs)
    return schedule.decay_ratio**passed


SHAPES: dict[Kind, Callable[[Schedule, int, float], float]] = {
    "cosine": lambda schedule, step, progress: max(0.0, 0.5 * (1 + math.cos(math.pi * progress))),
    "linear": lambda schedule, step, progress: 1 - progress,
    "constant": lambda schedule, step, progress: 1.0,
    "step": _decayed,
}
