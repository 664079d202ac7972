"""Which samples belong to which step, micro-batch and process."""

import math
from collections.abc import Iterator

from orthostream.data.errors import DataError
from orthostream.data.keys import generator
from orthostream.errors import UsageError, needs_extra

with needs_extra("vision"):
    import numpy as np


class EpochBatches:
    """The order of samples in each epoch, shared out over micro-batches and processes.

    An epoch is one permutation, fixed by seed and epoch alone. Step t of it uses places ``[t G, (t + 1) G)`` of
    the permutation, G the global batch, laid out as ``[micro-batch, process, sample]``. The global batch of a
    step is therefore the same for any number of processes, and any step can be the first. The rest of an epoch
    that fills no global batch is dropped.

    Args:
        size: samples in the set.
        seed: of the run.
        batch_size: global: over all processes and micro-batches of a step.
        accumulate: micro-batches a step.
        rank: of this process.
        world_size: number of processes.

    Raises:
        UsageError: where the batch does not divide.
        DataError: where the set is smaller than one batch.
    """

    def __init__(self, size: int, *, seed: int, batch_size: int, accumulate: int, rank: int, world_size: int) -> None:
        shares = world_size * accumulate
        if batch_size < 1 or accumulate < 1 or batch_size % shares:
            nearest = max(1, round(batch_size / shares)) * shares if shares > 0 else 1
            raise UsageError(
                f"train.batch_size={batch_size} (global) does not divide into {world_size} processes x "
                f"{accumulate} micro-batches; a multiple of {shares} does, such as {nearest}"
            )
        if size < batch_size:
            raise DataError(
                f"the training split has {size} samples, fewer than one global batch of {batch_size}; "
                f"set train.batch_size to at most {size}"
            )
        self.size, self.seed, self.batch_size, self.accumulate = size, seed, batch_size, accumulate
        self.rank, self.world_size = rank, world_size

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch: full global batches."""
        return self.size // self.batch_size

    def order(self, epoch: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """The permutation of an epoch."""
        return generator(self.seed, "order", epoch).permutation(self.size)

    def micro_batches(self, epoch: int, start_step: int = 0) -> Iterator[list[tuple[int, int]]]:
        """What this process loads, micro-batch by micro-batch.

        Args:
            epoch: from 0.
            start_step: first optimizer step of the epoch, from 0.

        Yields:
            ``(epoch, index)`` of each sample: its place in the set, and what its augmentation is keyed by.
        """
        order = self.order(epoch)
        for step in range(start_step, self.steps_per_epoch):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            for micro in batch.reshape(self.accumulate, self.world_size, -1):
                yield [(epoch, index) for index in micro[self.rank].tolist()]


class EvalShard:
    """The share of one process in an evaluation: every sample belongs to exactly one process, none twice.

    Process r takes samples r, r + world, r + 2 world, ...; nothing is padded, so shares may differ by one and
    be empty.

    Args:
        size: samples in the split.
        rank: of this process.
        world_size: number of processes.
        batch_size: samples of this process at a time; the last batch may be smaller.

    Raises:
        UsageError: for a batch size below 1.
    """

    def __init__(self, size: int, rank: int, world_size: int, batch_size: int) -> None:
        if batch_size < 1:
            raise UsageError(f"data.eval_batch_size={batch_size}; expected at least 1")
        self.indices = range(rank, size, world_size)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(0, len(self.indices), self.batch_size):
            yield list(self.indices[first : first + self.batch_size])

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)
