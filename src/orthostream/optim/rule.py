"""What the wrapper asks of a rule that replaces gradients: how to divide the work, and how to do a part of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Matrices that are worked on together.

    Args:
        indices: into the list of shapes that was divided.
        cost: floating-point operations, for sharing chunks out over processes.
    """

    indices: tuple[int, ...]
    cost: float


class Rule(Protocol):
    """Replaces matrices by others of the same shape.

    The division depends on shapes and kind of device alone, and the result of a chunk on the matrices of this
    chunk alone, bit for bit. So whichever process works on a chunk, the result is the same.
    """

    def plan(self, shapes: Sequence[tuple[int, ...]], device: torch.device) -> tuple[Chunk, ...]:
        """Divide matrices ``(rows, columns)`` and stacks ``(count, rows, columns)`` into chunks."""
        ...

    def run(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """The results for the matrices of one chunk, in new memory. Non-finite matrices give NaN."""
        ...
