"""Threads that take a part of a batch each, and compute it alone.

torch shares out each single operation among its threads. Augmentation consists of thousands of small ones: threads
would meet after each of them, and where a core is busy elsewhere all wait for it every time.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch
from torch import Tensor


class Threads:
    """As many threads as torch uses; torch uses one in each of them.

    Nothing is started before it is needed, nor where torch has a single thread.

    Example:
        >>> threads = Threads()
        >>> threads.map(lambda part: part + torch.get_num_threads(), torch.tensor([1, 2, 3]))
        tensor([2, 3, 4])
        >>> threads.close()
    """

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    def map(self, compute: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
        """Compute parts at the same time and put the results together, in order.

        Args:
            compute: of some of the samples; each row of its result may depend on its sample alone.
            samples: ``[batch, ...]``.
        """
        parts = [part for part in samples.tensor_split(self.count) if len(part)]
        if len(parts) < 2:
            return compute(samples)
        if self._pool is None:
            self._pool = _started(self.count)
        return torch.cat(list(self._pool.map(compute, parts)))

    def close(self) -> None:
        """End the threads. Later work starts new ones."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None


def _started(count: int) -> ThreadPoolExecutor:
    pool, all_here, before = ThreadPoolExecutor(count, "augment"), Barrier(count), torch.get_num_threads()

    def begin(_: int) -> None:
        # The number belongs to the thread that sets it, once it has taken over that of the process, which happens
        # when it first asks.
        torch.get_num_threads()
        torch.set_num_threads(1)
        all_here.wait()

    # Each thread waits here for the others, so that each of them begins once.
    list(pool.map(begin, range(count)))
    torch.set_num_threads(before)
    return pool
