"""Two views of one image, as Barlow Twins trains on them.

Source: Zbontar et al., arXiv:2103.03230, appendix A.1, with the augmentations of arXiv:2006.07733.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from orthostream.errors import needs_extra

with needs_extra("vision"):
    from PIL import Image
    from torchvision.transforms import InterpolationMode, v2

# Of each view: how often it is blurred, and how often solarised.
BLURRED, SOLARISED = (1.0, 0.1), (0.0, 0.2)
SIGMA = (0.1, 2.0)
# A blur reaches over a tenth of the image: 23 pixels of 224.
REACH = 20


class TwoViews:
    """An image as two views that were changed independently.

    Args:
        views: one transform a view; both give tensors of one shape.
    """

    def __init__(self, views: Sequence[Callable[[Image.Image], Tensor]]) -> None:
        self.views = views

    def __call__(self, image: Image.Image) -> Tensor:
        """``[2, channels, height, width]``."""
        return torch.stack([view(image) for view in self.views])


def two_views(size: int, as_tensor: Sequence[Any]) -> TwoViews:
    """Crop, flip, colours, grey, blur and solarisation, in two unequal mixtures.

    Args:
        size: pixels a side.
        as_tensor: steps from a PIL image to a normalised tensor.

    Returns:
        A function of a PIL image (RGB) to float32 ``[2, 3, size, size]``.
    """
    kernel = 2 * max(1, size // REACH) + 1
    blur = v2.GaussianBlur(kernel, SIGMA)
    return TwoViews(
        [
            v2.Compose(
                [
                    v2.RandomResizedCrop(size, interpolation=InterpolationMode.BICUBIC),
                    v2.RandomHorizontalFlip(),
                    v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                    v2.RandomGrayscale(p=0.2),
                    v2.RandomApply([blur], p=blurred),
                    v2.RandomSolarize(128, p=solarised),
                    *as_tensor,
                ]
            )
            for blurred, solarised in zip(BLURRED, SOLARISED, strict=True)
        ]
    )
