"""A rectangle of some images becomes noise (Zhong et al., arXiv:1708.04896)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from orthostream.data.batched.draws import Draws, between, choose, running
from orthostream.data.batched.geometry import TRIES, Boxes, first_fit


@dataclass(frozen=True)
class Erase:
    """Standard normal noise in a rectangle, as ``torchvision.transforms.v2.RandomErasing`` puts it there.

    A rectangle has a share of the area that is uniform in ``area``, and a ratio of height to width whose logarithm is
    uniform; it is the first of ten that is smaller than the image on both sides, and none where none is.

    Args:
        probability: that an image has one.
        area: smallest and largest share.
        ratio: smallest and largest ratio.

    Example:
        >>> erase = Erase(1.0, (0.02, 0.33), (0.3, 3.3))
        >>> images = erase(torch.zeros(4, 3, 32, 32), Draws.of(0, 0, torch.arange(4)))
        >>> bool((images != 0).flatten(1).any(1).all())
        True
    """

    probability: float
    area: tuple[float, float]
    ratio: tuple[float, float]

    @property
    def count(self) -> int:
        """Uniform numbers that an image needs."""
        return 3 + 2 * TRIES

    def draw(self, uniform: Tensor, height: int, width: int) -> tuple[Tensor, Boxes]:
        """Which images have a rectangle, and all rectangles.

        Args:
            uniform: float64 ``[batch, count]`` in [0, 1).
            height, width: of the images, in pixels.

        Returns:
            bool ``[batch]``, and the rectangles of all images.
        """
        areas = between(uniform[:, 1 : 1 + TRIES], *self.area) * (height * width)
        ratios = uniform[:, 1 + TRIES : 1 + 2 * TRIES]
        ratios = between(ratios, math.log(self.ratio[0]), math.log(self.ratio[1])).exp_()
        high, wide = (areas * ratios).sqrt_().round_().long(), (areas / ratios).sqrt_().round_().long()
        has_any, high, wide = first_fit((high < height) & (wide < width), high, wide)
        top, left = choose(uniform[:, -2], height - high + 1), choose(uniform[:, -1], width - wide + 1)
        return (uniform[:, 0] < self.probability) & has_any, Boxes(top, left, high, wide)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Images with their rectangles; in place.

        Args:
            images: floating ``[batch, channels, height, width]``, contiguous.
            draws: of these images.
        """
        _, channels, height, width = images.shape
        is_erased, boxes = self.draw(draws.uniform(self.count), height, width)
        rows = torch.nonzero(is_erased).flatten()
        top, left, high, wide = (each[rows] for each in boxes)
        sizes = channels * high * wide
        noise = Draws(draws.key, draws.samples[rows], draws.step).normal(sizes, images.device)
        # The noise runs through the rectangle by channel, row and column.
        number = running(sizes)
        high, wide, top, left, rows = (torch.repeat_interleave(each, sizes) for each in (high, wide, top, left, rows))
        line = number // wide
        channel = line // high
        places = ((rows * channels + channel) * height + top + line - channel * high) * width
        places += left + number - line * wide
        images.view(-1).index_copy_(0, places.to(images.device, non_blocking=True), noise.to(images.dtype))
        return images
