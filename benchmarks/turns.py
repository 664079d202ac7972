"""Timing: sides take turns, so that whatever else the machine does falls on all alike."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

Call: TypeAlias = Callable[[], object]

WARM_UP = 3
# Clock cycles that the device is first kept busy for, about a millisecond, and how often they may be doubled.
FIRST_CYCLES = 2_000_000
DOUBLINGS = 8


class Clock(Protocol):
    """Takes the time of several calls in a row."""

    def repeats(self, call: Call) -> int:
        """How many calls make a turn."""

    def seconds(self, call: Call, repeats: int) -> float:
        """Mean time of a call."""


@dataclass
class WallClock:
    """What somebody who waits for the result sees, the host's work included.

    Args:
        device: whose work is waited for, once a turn.
        turn: seconds that a turn should last.
        most: calls a turn.
    """

    device: torch.device
    turn: float = 0.02
    most: int = 50

    def repeats(self, call: Call) -> int:
        return min(self.most, max(1, math.ceil(self.turn / max(self.seconds(call, 1), 1e-9))))

    def seconds(self, call: Call, repeats: int) -> float:
        synchronise(self.device)
        begun = time.perf_counter()
        for _ in range(repeats):
            call()
        synchronise(self.device)
        return (time.perf_counter() - begun) / repeats


@dataclass
class DeviceClock:
    """What a CUDA device needs for the work itself, however long the host takes to queue it.

    The device spins while the host queues all calls of a turn between two events. Where the first event has passed
    before the last call is queued, the spin was too short, and the turn is taken again with a longer one.

    Args:
        most: calls a turn. A queue holds about a thousand launches, and the plain formula needs some 25 a call.
    """

    most: int = 20
    cycles: int = FIRST_CYCLES

    def repeats(self, call: Call) -> int:
        return self.most

    def seconds(self, call: Call, repeats: int) -> float:
        while True:
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            # torch has no public way to keep a device busy for a time.
            torch.cuda._sleep(self.cycles)
            begun.record()
            for _ in range(repeats):
                call()
            ended.record()
            is_host_ahead = not begun.query()
            torch.cuda.synchronize()
            if not is_host_ahead and self.cycles < FIRST_CYCLES << DOUBLINGS:
                self.cycles *= 2
                continue
            if not is_host_ahead:
                warnings.warn("the host does not get ahead of the device: times include launches", stacklevel=2)
            return 1e-3 * begun.elapsed_time(ended) / repeats


def synchronise(device: torch.device) -> None:
    """Wait for a device; the CPU is never ahead of itself."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(sides: Mapping[str, Call], clock: Clock, rounds: int) -> dict[str, list[float]]:
    """Seconds a call of every side, turn by turn.

    Args:
        sides: what to call, by label.
        clock: takes the times.
        rounds: turns of each side.

    Returns:
        ``rounds`` times for each label; those of one index are neighbours.
    """
    repeats = {}
    for side, call in sides.items():
        for _ in range(WARM_UP):
            call()
        repeats[side] = clock.repeats(call)
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds):
        # The order alternates, so that no side always follows the same other one.
        for side in list(sides) if turn % 2 == 0 else reversed(list(sides)):
            times[side].append(clock.seconds(sides[side], repeats[side]))
    return times


def rotating(calls: Sequence[Call]) -> Call:
    """One call after the other; each result lives until its own next turn, so that results rotate in memory as well."""
    results: list[Any] = [None] * len(calls)
    place = -1

    def call() -> None:
        nonlocal place
        place = (place + 1) % len(calls)
        results[place] = calls[place]()

    return call


def sets_beyond_cache(bytes_of_a_set: int, device: torch.device) -> int:
    """How many sets of operands to rotate among, so that none is still in the cache of a CUDA device.

    On the CPU one: figures there are of operands that may be cached, as they are between the layers of a model.
    """
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(1, math.ceil(2 * cache / bytes_of_a_set))
