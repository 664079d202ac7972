"""Brightness, contrast, saturation and hue of each image, changed by its own factors in its own order."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import TypeAlias

import torch
from torch import Tensor

from orthostream.data.batched import colour
from orthostream.data.batched.draws import between, choose
from orthostream.data.batched.grouping import by_group

Range: TypeAlias = tuple[float, float]

# In the order of torchvision.
CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    colour.brightness,
    colour.contrast,
    colour.saturation,
    colour.hue,
)
ORDERS = torch.tensor(list(permutations(range(len(CHANGES)))))


@dataclass(frozen=True)
class ColourJitter:
    """The changes of ``torchvision.transforms.v2.ColorJitter``.

    Args:
        brightness, contrast, saturation: smallest and largest factor; None for no change.
        hue: smallest and largest shift, in parts of the circle; None for no change.

    Example:
        >>> jitter = ColourJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1))
        >>> images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        >>> jitter(images, torch.rand(4, jitter.count, dtype=torch.float64)).shape
        torch.Size([4, 3, 32, 32])
    """

    brightness: Range | None
    contrast: Range | None
    saturation: Range | None
    hue: Range | None

    @property
    def count(self) -> int:
        """Uniform numbers that an image needs."""
        return 1 + len(CHANGES)

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Orders and factors.

        Args:
            uniform: float64 ``[batch, count]`` in [0, 1).

        Returns:
            int64 ``[4, batch]``, which change comes first, second, ...; float64 ``[4, batch]``, the factor of each
            change, whatever its turn.
        """
        orders = ORDERS[choose(uniform[:, 0], len(ORDERS))].T
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        factors = [between(numbers, *ends or (0, 0)) for numbers, ends in zip(uniform.T[1:], ranges, strict=True)]
        return orders, torch.stack(factors)

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Changed images.

        Args:
            images: ``[batch, channels, height, width]``, uint8 or floating in [0, 1]; left as they are.
            uniform: float64 ``[batch, count]`` in [0, 1), on the CPU.
        """
        orders, factors = self.draw(uniform)
        is_on = [ends is not None for ends in (self.brightness, self.contrast, self.saturation, self.hue)]

        def change(which: int, images: Tensor, samples: Tensor) -> Tensor:
            return CHANGES[which](images, factors[which, samples]) if is_on[which] else images

        return by_group(images, orders, len(CHANGES), change)
