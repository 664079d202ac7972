"""What a suite is made of: cases that measure themselves and give rows, or say why they could not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, get_args

import torch

from benchmarks.rows import Row
from orthostream.ops.choice import Name


@dataclass(frozen=True)
class Setting:
    """How to measure.

    Args:
        device: where.
        rounds: turns of each side.
        compiles: whether sides under ``torch.compile`` are measured, which takes long to prepare.
    """

    device: torch.device
    rounds: int
    compiles: bool


@dataclass(frozen=True)
class Failure:
    """A side that could not be measured; the other sides of its case can still be.

    Args:
        side: its label.
        error: what it raised.
    """

    side: str
    error: Exception

    def __str__(self) -> str:
        lines = str(self.error).strip().splitlines()
        return f"{self.side}: {type(self.error).__name__}: {lines[0] if lines else ''}"


Outcome: TypeAlias = Row | Failure


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        name: for the table; ``--only`` looks in it.
        measure: gives rows as they are found, so that those before an error are not lost.
    """

    name: str
    measure: Callable[[Setting], Iterator[Outcome]]


class Skip(Exception):
    """There is nothing to measure; the message says why."""


def implementations(device: torch.device, *, compiled: bool = False) -> tuple[Name, ...]:
    """All that run on a device, as ``choice.py`` names them: the plain formula first.

    A compiler is given the closed form, or an opaque operator around the kernels.
    """
    elsewhere = "blocked" if device.type == "cuda" else "triton"
    left_out = {elsewhere, "reference", "blocked"} if compiled else {elsewhere}
    return tuple(name for name in get_args(Name) if name not in left_out)
