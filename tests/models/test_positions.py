"""Learned positions on another grid of patches."""

import pytest
import torch

from orthostream.models.positions import interpolate_positions, patch_grid


def test_grid_counts_patches() -> None:
    assert patch_grid(32, 4) == (8, 8)
    assert patch_grid((28, 14), 7) == (4, 2)


def test_same_grid_is_the_identity() -> None:
    positions = torch.randn(1, 6, 5)
    assert interpolate_positions(positions, (2, 3), (2, 3)) is positions


def test_constant_positions_stay_constant() -> None:
    positions = torch.tensor([0.5, -2.0]).expand(1, 16, 2)
    resampled = interpolate_positions(positions, (4, 4), (6, 9))
    # weights of a resampling sum to one, up to float32
    torch.testing.assert_close(resampled, positions[:, :1].expand(1, 54, 2), atol=1e-6, rtol=1e-6)


def test_rows_and_columns_keep_their_place() -> None:
    # the first feature counts rows, the second columns
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    positions = torch.stack([rows, columns], dim=-1).reshape(1, 24, 2)
    resampled = interpolate_positions(positions, (4, 6), (8, 12)).reshape(8, 12, 2)
    assert (resampled[:, :, 0].diff(dim=0) > -0.1).all()
    # a row feature does not change along a row, up to float32
    torch.testing.assert_close(resampled[:, 0, 0], resampled[:, -1, 0], atol=1e-5, rtol=0.0)
    # inside, the new centre i lies at (i + 0.5) / 2 - 0.5 of the old grid, where a cubic reproduces a line
    torch.testing.assert_close(resampled[4, 3:9, 1], (torch.arange(3.0, 9.0) + 0.5) / 2 - 0.5, atol=0.05, rtol=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    positions = torch.randn(1, 4, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    resampled = interpolate_positions(positions, (2, 2), (3, 3))
    assert resampled.dtype == dtype
    exact = interpolate_positions(positions.double(), (2, 2), (3, 3))
    # resampled in float32 at least, rounded once: half a unit in the last place
    torch.testing.assert_close(resampled.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-7)
