"""Random numbers that depend on their place in a run alone: (seed, epoch, sample, step of the pipeline).

They come from Philox4x32-10, a function of a key of 64 bits and a counter of 128 bits (Salmon et al., *Parallel random
numbers: as easy as 1, 2, 3*, SC 2011, section 3.3). The key is that of the epoch; the counter holds the sample, the
step and a running number. So a sample gets the same numbers in any batch, on any process, in any run that is resumed,
and all of a batch are computed at once.
"""

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from orthostream.data.keys import key

# Four words of 32 bits, held in int64.
Words: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]

MASK = 0xFFFFFFFF
ROUNDS = 10
# Multipliers and the increments of the key, table 2 of the paper.
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
INCREMENTS = (0x9E3779B9, 0xBB67AE85)
# Running numbers below are for uniform numbers, from here on for normal ones.
FIRST_NORMAL = 1 << 16


def philox(counter: Words, key: int) -> Words:
    """Philox4x32-10: four random words for each counter.

    Args:
        counter: four int64 tensors with values in ``[0, 2**32)`` that broadcast.
        key: 64 bits.

    Returns:
        Four int64 tensors with values in ``[0, 2**32)``.

    Example:
        >>> zero = torch.zeros(1, dtype=torch.int64)
        >>> [f"{word.item():08x}" for word in philox((zero, zero, zero, zero), 0)]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    a, b, c, d = counter
    low, high = key & MASK, key >> 32
    for turn in range(ROUNDS):
        first, second = (low + turn * INCREMENTS[0]) & MASK, (high + turn * INCREMENTS[1]) & MASK
        # Products of 64 bits wrap into negative numbers; the mask undoes the sign that the shift brings in.
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b = ((right >> 32) & MASK) ^ b ^ first, right & MASK
        c, d = ((left >> 32) & MASK) ^ d ^ second, left & MASK
    return a, b, c, d


@dataclass(frozen=True)
class Draws:
    """The random numbers of some samples in one step of a pipeline.

    Args:
        key: of the epoch.
        samples: int64 ``[batch]``, the place of each sample in its set, on the CPU: what is drawn decides which images
            are treated alike, and the host must know that without waiting for a device.
        step: of the pipeline, from 0.

    Example:
        >>> draws = Draws.of(seed=0, epoch=3, samples=torch.tensor([7, 8]))
        >>> alone = Draws.of(seed=0, epoch=3, samples=torch.tensor([8]))
        >>> draws.uniform(5).shape, torch.equal(draws.uniform(5)[1:], alone.uniform(5))
        (torch.Size([2, 5]), True)
    """

    key: int
    samples: Tensor
    step: int = 0

    @classmethod
    def of(cls, seed: int, epoch: int, samples: Tensor) -> "Draws":
        """Of a run's seed and an epoch."""
        return cls(key(seed, "augmentation", epoch), samples)

    def at(self, step: int) -> "Draws":
        """The numbers of another step of the pipeline."""
        return replace(self, step=step)

    def uniform(self, count: int) -> Tensor:
        """Numbers in ``[0, 1)``, multiples of ``2**-32``.

        Args:
            count: how many a sample.

        Returns:
            float64 ``[batch, count]``; fewer are the first of more.
        """
        blocks = torch.arange(math.ceil(count / 4))
        words = self._words(self.samples[:, None], blocks)
        return torch.stack(words, dim=-1).flatten(1)[:, :count].double().mul_(2.0**-32)

    def normal(self, sizes: Tensor, device: torch.device) -> Tensor:
        """Standard normal numbers (Box and Muller, 1958), another count for each sample.

        Args:
            sizes: int64 ``[batch]``, how many a sample, on the CPU.
            device: where they are computed.

        Returns:
            float32 ``[sum of sizes]`` on the device: those of the first sample, of the second, ...
        """
        # A block of four numbers a counter; the last of each sample may be used in part.
        blocks = (sizes + 3) // 4
        rows = torch.repeat_interleave(blocks)
        number = running(blocks)
        is_used = (4 * number)[:, None] + torch.arange(4) < sizes[rows][:, None]
        a, b, c, d = self._words(self.samples[rows].to(device), number.to(device) + FIRST_NORMAL)
        pairs = [_box_muller(a, b), _box_muller(c, d)]
        values = torch.stack([value for pair in pairs for value in pair], dim=-1)
        # Places and not a mask: a mask on the device would make the host wait for its count.
        places = torch.nonzero(is_used.flatten()).flatten()
        return values.flatten().index_select(0, places.to(device))

    def _words(self, samples: Tensor, numbers: Tensor) -> Words:
        step = samples.new_tensor(self.step)
        return philox((samples & MASK, samples >> 32, step, numbers), self.key)


def running(sizes: Tensor) -> Tensor:
    """``0, 1, ..., sizes[0] - 1, 0, 1, ..., sizes[1] - 1, ...``, int64 ``[sum of sizes]``."""
    begins = sizes.cumsum(0) - sizes
    return torch.arange(int(sizes.sum())) - torch.repeat_interleave(begins, sizes)


def choose(uniform: Tensor, among: int | Tensor) -> Tensor:
    """Whole numbers ``0 <= n < among`` from uniform ones, all equally probable to ``among / 2**32``; int64."""
    return (uniform * among).long()


def between(uniform: Tensor, low: float, high: float) -> Tensor:
    """Numbers in ``[low, high)`` from those in ``[0, 1)``."""
    return uniform * (high - low) + low


def _box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two normal numbers from two words. In float64: what a compiler vectorises otherwise rounds away in float32."""
    radius = first.add(1).double().mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = second.double().mul_(2 * math.pi * 2.0**-32)
    return (radius * angle.cos()).float(), (radius * angle.sin()).float()
