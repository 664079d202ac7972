"""Grids of patches, and learned positions carried over to another grid."""

from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from orthostream.errors import UsageError
from orthostream.models.checks import check_counts

# Side of a square image, or (height, width), in pixels.
ImageSize: TypeAlias = int | tuple[int, int]
# Patches along the height and along the width.
Grid: TypeAlias = tuple[int, int]


def patch_grid(image_size: ImageSize, patch_size: int) -> Grid:
    """How many patches an image has along its height and its width.

    Raises:
        UsageError: for sizes that are no whole numbers of 1 or more, or an image that patches do not fill.
    """
    sides = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(sides) != 2:
        raise UsageError(f"image_size is one side in pixels or (height, width), got {image_size}")
    height, width = sides
    check_counts(image_size=height)
    check_counts(image_size=width, patch_size=patch_size)
    if height % patch_size or width % patch_size:
        raise UsageError(
            f"an image of {height}x{width} pixels does not divide into patches of {patch_size}x{patch_size}: "
            f"{height} / {patch_size} = {height / patch_size:g}, {width} / {patch_size} = {width / patch_size:g}; "
            f"choose another patch_size, or an image_size that is a multiple of {patch_size}"
        )
    return height // patch_size, width // patch_size


def interpolate_positions(positions: Tensor, grid: Grid, new_grid: Grid) -> Tensor:
    """Learned positions of one grid of patches, resampled on another one (bicubic, with antialiasing).

    Args:
        positions: [1, height * width, features], row by row.
        grid: the grid that they were learned on.
        new_grid: the grid that is wanted.

    Returns:
        [1, new height * new width, features] in the dtype of ``positions``; the same tensor where grids agree.
    """
    if grid == new_grid:
        return positions
    features = positions.shape[-1]
    # Resampling weights are sums of many products: half precision would cost digits for good.
    wide = positions.to(torch.promote_types(positions.dtype, torch.float32))
    as_image = wide.reshape(1, *grid, features).permute(0, 3, 1, 2)
    resampled = functional.interpolate(as_image, size=new_grid, mode="bicubic", align_corners=False, antialias=True)
    rows = resampled.permute(0, 2, 3, 1).reshape(1, new_grid[0] * new_grid[1], features)
    return rows.to(positions.dtype)
