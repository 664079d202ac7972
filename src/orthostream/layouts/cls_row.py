"""Layouts that add a position to the class token too, where our ViT adds none.

A zero row is exact in both directions. A row that is not zero is added to the class token, once and for good: the sum
that enters the first block is the same float32 number.
"""

import torch
from torch import Tensor


def with_row(positions: Tensor) -> Tensor:
    """Positions [1, N, D] of patches become [1, 1 + N, D], with zeros for the class token."""
    return torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)


def without_row(cls_token: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The class token with its position in it, the positions of patches, and whether there was anything to add.

    Args:
        cls_token: [1, 1, D].
        positions: [1, 1 + N, D].
    """
    row = positions[:, :1]
    has_position = bool(row.any())
    # Not added where it is zero: -0.0 + 0.0 is 0.0, which is another bit pattern.
    return cls_token + row if has_position else cls_token, positions[:, 1:], has_position
