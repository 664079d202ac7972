"""RandAugment with each image's own draws (Cubuk et al., arXiv:1909.13719), as ``torchvision.transforms.v2`` has it.

Each round draws one of fourteen operations for every image, and the sign of those that have one; the magnitude is the
same for the whole run. Posterising and contrast stretching are torchvision's own functions, which treat each image of a
group by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from orthostream.data.batched import colour
from orthostream.data.batched.draws import choose
from orthostream.data.batched.geometry import Source, Warp, source, warp
from orthostream.data.batched.grouping import by_group
from orthostream.errors import needs_extra

with needs_extra("vision"):
    from torchvision.transforms.v2 import functional

# In the order of torchvision.
WARPS: tuple[Warp, ...] = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
FACTORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Brightness": colour.brightness,
    "Color": colour.saturation,
    "Contrast": colour.contrast,
    "Sharpness": colour.sharpness,
}
PLAIN: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Posterize": lambda images, bits: functional.posterize(images, bits=int(bits)),
    "Solarize": lambda images, share: colour.solarize(images, share * _largest(images)),
    "AutoContrast": lambda images, _: functional.autocontrast(images),
    "Equalize": lambda images, _: colour.equalize(images),
}
OPERATIONS = ("Identity", *WARPS, *FACTORS, *PLAIN)
HAS_SIGN = torch.tensor([name in WARPS or name in FACTORS for name in OPERATIONS])
# Shares of an image's side that the strongest translation moves.
FARTHEST = 150 / 331


def magnitude_of(operation: str, magnitude: int, bins: int, height: int, width: int) -> float:
    """What a magnitude means for an operation; 0 where it has none.

    Shears are tangents, translations pixels, rotations degrees, factors of colours their distance from 1; posterising
    has the bits that stay and solarising a share of the largest value.

    Args:
        operation: one of ``OPERATIONS``.
        magnitude: 0 to ``bins - 1``.
        bins: into which the range is divided.
        height, width: of the images, in pixels.
    """
    if operation == "Posterize":
        return float((8 - (torch.arange(bins) / ((bins - 1) / 4))).round().int()[magnitude])
    ends = {
        "ShearX": (0.0, 0.3),
        "ShearY": (0.0, 0.3),
        "TranslateX": (0.0, FARTHEST * width),
        "TranslateY": (0.0, FARTHEST * height),
        "Rotate": (0.0, 30.0),
        **dict.fromkeys(FACTORS, (0.0, 0.9)),
        "Solarize": (1.0, 0.0),
    }
    if operation not in ends:
        return 0.0
    # In the float32 of torchvision, whose rounding decides about whole pixels.
    return float(torch.linspace(*ends[operation], bins)[magnitude])


@dataclass
class RandAugment:
    """``rounds`` operations of one magnitude, drawn for each image.

    Args:
        rounds: operations an image.
        magnitude: of all of them, 0 to ``bins - 1``.
        bins: into which the ranges of magnitudes are divided.

    Example:
        >>> augment = RandAugment(rounds=2, magnitude=9)
        >>> images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        >>> augment(images, torch.rand(4, augment.count, dtype=torch.float64)).shape
        torch.Size([4, 3, 32, 32])
    """

    rounds: int
    magnitude: int
    bins: int = 31
    _maps: dict[tuple[Warp, int, int, int, torch.device], Source] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """Uniform numbers that an image needs."""
        return 2 * self.rounds

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Operations, and whether their magnitudes are negative.

        Args:
            uniform: float64 ``[batch, count]`` in [0, 1).

        Returns:
            int64 and bool ``[rounds, batch]``.
        """
        first, second = uniform.T[: self.rounds], uniform.T[self.rounds :]
        operations = choose(first, len(OPERATIONS))
        return operations, (second < 0.5) & HAS_SIGN[operations]

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augmented images.

        Args:
            images: ``[batch, channels, height, width]``, uint8 or floating in [0, 1]; left as they are.
            uniform: float64 ``[batch, count]`` in [0, 1), on the CPU.
        """
        operations, is_negative = self.draw(uniform)
        groups = 2 * operations + is_negative
        return by_group(images, groups, 2 * len(OPERATIONS), lambda group, rows, _: self.apply(rows, group))

    def apply(self, images: Tensor, group: int) -> Tensor:
        """One operation on all images.

        Args:
            images: ``[batch, channels, height, width]``.
            group: twice the place of the operation among ``OPERATIONS``, and 1 more for its negative magnitude.
        """
        name, sign = OPERATIONS[group // 2], -1 if group % 2 else 1
        if name == "Identity":
            return images
        amount = magnitude_of(name, self.magnitude, self.bins, *images.shape[-2:])
        if name in PLAIN:
            return PLAIN[name](images, amount)
        if name in FACTORS:
            return FACTORS[name](images, torch.full((len(images),), 1 + sign * amount, dtype=torch.float64))
        return warp(images, self._source(WARPS[WARPS.index(name)], sign, images))

    def _source(self, name: Warp, sign: int, images: Tensor) -> Source:
        height, width = images.shape[-2:]
        place = (name, sign, height, width, images.device)
        if place not in self._maps:
            amount = sign * magnitude_of(name, self.magnitude, self.bins, height, width)
            self._maps[place] = Source(*(each.to(images.device) for each in source(name, amount, height, width)))
        return self._maps[place]


def _largest(images: Tensor) -> float:
    return 255.0 if images.dtype == torch.uint8 else 1.0
