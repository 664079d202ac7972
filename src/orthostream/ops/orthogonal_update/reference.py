"""The orthogonal update as one reads it in the paper; autograd differentiates it.

Source: Oh et al., Orthogonal Residual Updates, NeurIPS 2025, arXiv:2505.11881, equations 3 to 5.
"""

import torch
from torch import Tensor

from orthostream.shapes import Axes


def accumulation_dtype(x: Tensor, update: Tensor) -> torch.dtype:
    """The dtype of products, sums and quotients: float32, or float64 where an operand is float64."""
    return torch.promote_types(torch.promote_types(x.dtype, update.dtype), torch.float32)


def parallel_coefficient(x: Tensor, update: Tensor, dim: Axes, eps: float, *, clamp: bool = False) -> Tensor:
    """The coefficient ``s`` of the parallel part ``s * x``.

    ``s = <x, u> / m`` with ``m = <x, x> + eps``, or ``m = max(<x, x>, eps)`` where ``clamp`` is set (what the
    authors' code does where the base of a variant is the plain sum).

    Args:
        x: stream, in the accumulation dtype already.
        update: of the shape of ``x``, in the accumulation dtype already.
        dim: axis or axes of the inner product; kept with size one in the result.
        eps: added to, or lower bound of, the squared norm.

    Returns:
        ``s``, of the shape of ``x`` with size one along ``dim``.
    """
    squared_norm = (x * x).sum(dim, keepdim=True)
    denominator = squared_norm.clamp_min(eps) if clamp else squared_norm + eps
    return (x * update).sum(dim, keepdim=True) / denominator


def orthogonal_update_reference(
    x: Tensor, update: Tensor, dim: Axes = -1, eps: float = 1e-6, strength: float | Tensor = 1.0
) -> Tensor:
    """``x + u - strength * s * x`` in the accumulation dtype, rounded once to the dtype of ``x``.

    Args and result are those of :func:`orthostream.ops.orthogonal_update`; operands are not checked.
    """
    dtype = accumulation_dtype(x, update)
    wide_x, wide_update = x.to(dtype), update.to(dtype)
    coefficient = parallel_coefficient(wide_x, wide_update, dim, eps)
    return (wide_update + (1 - strength * coefficient) * wide_x).to(x.dtype)
