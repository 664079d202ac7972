"""Soft thresholding of outliers before a polar factor is taken, as in ROOT."""

import torch
from torch import Tensor

from orthostream.errors import UsageError

# Added to the quantile, as published.
EPS = 1e-9


@torch.no_grad()
def split_outliers(matrix: Tensor, quantile: float = 0.9) -> tuple[Tensor, Tensor]:
    """Split off what exceeds a quantile of the magnitudes: ``T = sign(U) max(|U| - t, 0)`` and ``U - T``.

    ``t`` is the quantile of ``|U|`` plus 1e-9, so ``U - T`` is U clipped to ``[-t, t]``. ROOT takes the polar factor
    of that part, which single large entries then cannot dominate.

    Args:
        matrix: U, floating point, any shape.
        quantile: share of entries that stay below the threshold, in [0, 1].

    Returns:
        ``(U - T, T)`` in the dtype of U.

    Raises:
        UsageError: for a quantile outside [0, 1] or a tensor that is empty or not floating point.

    Example:
        >>> inliers, outliers = split_outliers(torch.tensor([1.0, -2.0, 3.0, -40.0]), quantile=2 / 3)
        >>> inliers
        tensor([ 1., -2.,  3., -3.])
        >>> outliers
        tensor([  0.,   0.,   0., -37.])

    Reference:
        ROOT, huawei-noah/noah-research; the quantile is interpolated linearly.
    """
    if not 0 <= quantile <= 1:
        raise UsageError(f"quantile is a share of the entries, between 0 and 1, got {quantile!r}")
    if not matrix.is_floating_point() or matrix.numel() == 0:
        raise UsageError(f"outliers are split off tensors of floating-point numbers, got {list(matrix.shape)}")
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    limit = _quantile(wide.abs().flatten(), quantile) + EPS
    inliers = wide.clamp(-limit, limit)
    return inliers.to(matrix.dtype), (wide - inliers).to(matrix.dtype)


def _quantile(values: Tensor, quantile: float) -> Tensor:
    """With linear interpolation; ``torch.quantile`` takes no more than 16 million values."""
    place = quantile * (values.numel() - 1)
    below = int(place)
    # Sorting gives NaN for a tensor that has one: NaN sorts last, and would otherwise go unseen.
    ordered = values.sort().values
    above = min(below + 1, values.numel() - 1)
    mixed = torch.lerp(ordered[below], ordered[above], place - below)
    return torch.where(ordered[-1].isnan(), ordered[-1], mixed)
