"""Time and memory of training steps that differ in one thing, in turn."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.cases import Failure, Outcome, Setting
from benchmarks.peak import Memory, built_and_weighed
from benchmarks.rows import Row, timed_row
from benchmarks.training_step import TrainingStep
from benchmarks.turns import Call, WallClock, in_turn

# Seconds a turn: on CUDA several steps, since the host queues one while the device computes another.
CUDA_TURN = 0.25


@dataclass(frozen=True)
class Steps:
    """What was found of the sides of one case.

    Args:
        times: seconds a step of each side that ran, turn by turn.
        memory: of each.
        failures: of those that did not run.
    """

    times: dict[str, list[float]]
    memory: dict[str, Memory]
    failures: list[Failure]

    def row(self, suite: str, case: str, base: str, other: str, share: int = 1) -> Row:
        """Two of the sides."""
        row = timed_row(suite, case, base, other, self.times[base], self.times[other], share)
        return replace(
            row,
            saved_mb_base=self.memory[base].saved / 1e6,
            saved_mb_other=self.memory[other].saved / 1e6,
            peak_mb_base=self.memory[base].peak / 1e6,
            peak_mb_other=self.memory[other].peak / 1e6,
        )

    def rows(self, suite: str, case: str, pairs: Sequence[tuple[str, str]], share: int = 1) -> Iterator[Outcome]:
        """The pairs of which both sides ran, and the sides that did not."""
        yield from self.failures
        for base, other in pairs:
            if base in self.times and other in self.times:
                yield self.row(suite, case, base, other, share)


def measured(sides: dict[str, TrainingStep], setting: Setting) -> Steps:
    """Build all sides, weigh each alone, and time them in turn."""
    device = setting.device
    ready: dict[str, Call] = {}
    memory: dict[str, Memory] = {}
    failures: list[Failure] = []
    if device.type == "cuda":
        warm_libraries(next(iter(sides.values())), device)
    for label, made_of in sides.items():
        try:
            ready[label], memory[label] = built_and_weighed(made_of, device)
        except Exception as error:
            failures.append(Failure(label, error))
    clock = WallClock(device, CUDA_TURN if device.type == "cuda" else 0.0)
    return Steps(in_turn(ready, clock, setting.rounds), memory, failures)


def warm_libraries(made_of: TrainingStep, device: torch.device) -> None:
    """One step that is thrown away: matrix libraries keep workspaces, which the first side would have to answer for."""
    step = made_of.build(device)
    step()
    del step
    gc.collect()
    torch.cuda.empty_cache()
