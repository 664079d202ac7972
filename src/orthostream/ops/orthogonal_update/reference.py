"""The orthogonal update as one reads it in the paper; autograd differentiates it.

Source: Oh et al., Orthogonal Residual Updates, NeurIPS 2025, arXiv:2505.11881, equations 3 to 5.
"""

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from orthostream.shapes import Axes

# A number, or a tensor of one element: a dial that changes between steps, or a parameter.
Weight: TypeAlias = float | Tensor


class Rule(NamedTuple):
    """All of one update but its tensors: ``y = p x + q u - k s x`` with ``s = <x, u> / m``.

    ``m = <x, x> + eps``, or ``max(<x, x>, eps)`` where ``clamp`` is set (what the authors' code does where the base
    of a variant is the plain sum). The orthogonal update has weights p = q = k = 1.

    Args:
        dim: axis or axes of the inner products.
        eps: added to, or lower bound of, the squared norm.
        clamp: whether eps is a lower bound.
        strength: k, how much of the parallel part is removed.
        stream_weight: p.
        update_weight: q.
    """

    dim: Axes = -1
    eps: float = 1e-6
    clamp: bool = False
    strength: Weight = 1.0
    stream_weight: Weight = 1.0
    update_weight: Weight = 1.0


def accumulation_dtype(x: Tensor, update: Tensor) -> torch.dtype:
    """The dtype of products, sums and quotients: float32, or float64 where an operand is float64."""
    return torch.promote_types(torch.promote_types(x.dtype, update.dtype), torch.float32)


def guarded_square(x: Tensor, dim: Axes, eps: float, clamp: bool) -> Tensor:
    """``m``, the squared norm of ``x`` over ``dim`` (kept with size one), guarded by eps."""
    squared_norm = (x * x).sum(dim, keepdim=True)
    return squared_norm.clamp_min(eps) if clamp else squared_norm + eps


def parallel_coefficient(x: Tensor, update: Tensor, dim: Axes, eps: float, *, clamp: bool = False) -> Tensor:
    """The coefficient ``s = <x, u> / m`` of the parallel part ``s * x``.

    Args:
        x: stream, in the accumulation dtype already.
        update: of the shape of ``x``, in the accumulation dtype already.
        dim: axis or axes of the inner product; kept with size one in the result.
        eps: added to, or lower bound of, the squared norm.
        clamp: whether eps is a lower bound.

    Returns:
        ``s``, of the shape of ``x`` with size one along ``dim``.
    """
    return (x * update).sum(dim, keepdim=True) / guarded_square(x, dim, eps, clamp)


def reference(x: Tensor, update: Tensor, rule: Rule) -> Tensor:
    """``p x + q u - k s x`` in the accumulation dtype, rounded once to the dtype of ``x``; operands are not checked."""
    dtype = accumulation_dtype(x, update)
    wide_x, wide_update = x.to(dtype), update.to(dtype)
    coefficient = parallel_coefficient(wide_x, wide_update, rule.dim, rule.eps, clamp=rule.clamp)
    kept_share = rule.stream_weight - rule.strength * coefficient
    return (rule.update_weight * wide_update + kept_share * wide_x).to(x.dtype)
