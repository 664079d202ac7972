"""What all sources of training batches share: the steps of an epoch, any of which can be the first."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeAlias

from torch import Tensor

from orthostream.data.sampler import EpochBatches
from orthostream.errors import UsageError

# Inputs and labels of one micro-batch.
Micro: TypeAlias = tuple[Tensor, Tensor]


class Epochs(ABC):
    """Training samples in the order that :class:`~.sampler.EpochBatches` fixes.

    One epoch is iterated at a time.
    """

    batches: EpochBatches

    @property
    def size(self) -> int:
        """Samples of an epoch."""
        return self.batches.size

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch: full global batches."""
        return self.batches.steps_per_epoch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Micro, ...]]:
        """The optimizer steps of an epoch.

        Args:
            epoch: from 0.
            start_step: the first step to yield, from 0.

        Yields:
            For each step its micro-batches of this process: inputs and labels.

        Raises:
            UsageError: for a step that the epoch does not have.
            DataError: for a sample that cannot be loaded, naming it, or workers that die or hang.
        """
        if not 0 <= start_step <= self.steps_per_epoch:
            raise UsageError(f"an epoch has steps 0 to {self.steps_per_epoch - 1}, it cannot start at {start_step}")
        return self._steps(epoch, start_step)

    @abstractmethod
    def _steps(self, epoch: int, start_step: int) -> Iterator[tuple[Micro, ...]]: ...

    def close(self) -> None:
        """Let go of what is held open. A later epoch opens it again."""
        return
