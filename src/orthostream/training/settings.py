"""What the loop needs to know, and where it stands."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from orthostream.training.evaluate import ACCURACY, Score

Micro = tuple[Tensor, Tensor]


class TrainBatches(Protocol):
    """The training samples in the order of the run."""

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Micro, ...]]:
        """The micro-batches of each optimizer step of an epoch, from ``start_step`` on."""
        ...


class Statistics(Protocol):
    """Listens to the model on the steps that it is started for."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def collect(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]: ...


class StepHook(Protocol):
    """Something that changes the model between steps, as a function of the step alone."""

    def step(self, step: int) -> None: ...

    def evaluation(self) -> None: ...


# (images, labels, epoch, step in the epoch, micro-batch) -> (images, targets)
Mix = Callable[[Tensor, Tensor, int, int, int], Micro]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long to train, and what to do at which step.

    Args:
        epochs: length of the run.
        steps_per_epoch: optimizer steps an epoch.
        max_steps: stop after so many optimizer steps, if that comes first.
        accumulate: micro-batches a step.
        batch_size: samples a step, over all processes and micro-batches.
        clip_norm: largest global L2 norm of the gradient.
        autocast_dtype: of the training forward.
        log_interval: steps between rows of the log.
        statistics_interval: steps between samplings of the stream.
        eval_every: epochs between evaluations; the last one is always evaluated.
        save_every_steps, save_every_epochs: between checkpoints.
        keep: newest checkpoints that stay.
        keep_every_epochs: checkpoints at multiples of this many epochs stay for good.
        keep_best: the checkpoint with the best score stays.
        score: the value of an evaluation that says which one is the best.
    """

    epochs: int
    steps_per_epoch: int
    max_steps: int | None = None
    accumulate: int = 1
    batch_size: int
    clip_norm: float | None = None
    autocast_dtype: torch.dtype | None = None
    log_interval: int = 50
    statistics_interval: int | None = None
    eval_every: int = 1
    save_every_steps: int | None = None
    save_every_epochs: int | None = 1
    keep: int = 2
    keep_every_epochs: int | None = None
    keep_best: bool = True
    score: Score = ACCURACY

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        full = self.epochs * self.steps_per_epoch
        return full if self.max_steps is None else min(full, self.max_steps)


@dataclass
class Position:
    """Where a run stands; everything the loop counts, in builtins.

    Args:
        step: optimizer steps done.
        epoch: epoch in progress, from 0.
        step_in_epoch: optimizer steps of it that are done.
        skipped: steps that the float16 scaler skipped; the schedule does not count them.
        skipped_in_a_row: of these, the newest run without a success between.
        best: score, place and checkpoint of the best evaluation.
        milestones: names of checkpoints that stay for good.
        seconds: time spent in training.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: dict[str, Any] = field(default_factory=dict[str, Any])
    milestones: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    def as_builtins(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """How a call of the trainer ended.

    Args:
        is_finished: whether the run is complete.
        signal: the signal that stopped it, or 0.
        position: where it stands.
        final: the last evaluation's values.
    """

    is_finished: bool
    signal: int
    position: Position
    final: dict[str, float]
