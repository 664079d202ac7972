"""Images that are to be treated alike are brought together, treated at once, and put back."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

# ``(group, images, samples) -> images``: samples are their places in the batch, on the CPU.
Apply: TypeAlias = Callable[[int, Tensor, Tensor], Tensor]

# On a CPU a group is treated in blocks of so many bytes: what is computed in between, in float32, then stays in its
# cache.
BLOCK = 1 << 18


def by_group(images: Tensor, choices: Tensor, groups: int, apply: Apply) -> Tensor:
    """Apply to each image what was chosen for it, round after round.

    The rows are sorted by group once a round, so that a group is a slice; they go back to their places at the end.

    Args:
        images: ``[batch, channels, height, width]``; left as they are.
        choices: int64 ``[rounds, batch]``, the group of each image in each round, on the CPU: sizes of groups are
            needed on the host.
        groups: how many there are.
        apply: what a group gets. Each image of its result may depend on that image alone.

    Returns:
        New images.

    Example:
        >>> images = torch.arange(3.0).reshape(3, 1, 1, 1)
        >>> choices = torch.tensor([[1, 0, 1], [0, 0, 1]])
        >>> by_group(images, choices, 2, lambda group, images, samples: images + 10 * group).flatten()
        tensor([10.,  1., 22.])
    """
    samples = torch.arange(len(images))
    image_bytes = images.element_size() * images.shape[1:].numel()
    block = max(1, BLOCK // image_bytes) if images.device.type == "cpu" else len(images)
    # Fresh memory in each round would cost as much as what is done to the images.
    buffers = (torch.empty_like(images), torch.empty_like(images))
    for turn, choice in enumerate(choices):
        order = torch.argsort(choice[samples], stable=True)
        samples = samples[order]
        places = order.to(images.device, non_blocking=True)
        images = torch.index_select(images, 0, places, out=buffers[turn % 2])
        begin = 0
        for group, size in enumerate(torch.bincount(choice, minlength=groups).tolist()):
            end = begin + size
            for first in range(begin, end, block):
                rows = slice(first, min(first + block, end))
                images[rows] = apply(group, images[rows], samples[rows])
            begin = end
    # The place of a sample among the rows: the inverse of the permutation.
    return images.index_select(0, torch.argsort(samples).to(images.device, non_blocking=True))
