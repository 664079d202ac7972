"""Polynomial iterations on stacks of matrices: on the matrices themselves, or on their Gram matrices alone."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from orthostream.optim.products import affine, multiply
from orthostream.optim.schedules import Coefficients, Schedule

Norm: TypeAlias = Literal["frobenius", "gram"]

# Keeps the quotient finite for a zero matrix; others come scaled and are far above it.
TINY = 1e-30


def direct_factor(matrix: Tensor, schedule: Schedule, norm: Norm, low: torch.dtype | None = None) -> Tensor:
    """Apply odd polynomials to the singular values of wide matrices, step by step.

        A = X X^T;  X = a X + (b A + c A^2) X

    Args:
        matrix: [count, m, n], m <= n.
        schedule: polynomials and safety factor.
        norm: upper bound of the largest singular value (:func:`shrink`).
        low: dtype of the iteration, where it is lower than that of the matrix.

    Returns:
        [count, m, n] in the dtype of the iteration.

    Reference:
        Jordan et al., Muon, 2024.
    """
    rounded = matrix if low is None else matrix.to(low)
    if norm == "gram":
        gram = multiply(rounded, rounded.mT)
        factor = shrink(gram, norm, schedule.safety)
        gram = (gram * factor.square()).to(gram.dtype)
        scaled = (matrix * factor).to(rounded.dtype)
    else:
        # In the dtype of the iteration, as in published code, with which this agrees bit for bit.
        bound = schedule.safety * torch.linalg.vector_norm(rounded, dim=(-2, -1), keepdim=True)
        scaled = rounded / bound.clamp_min(TINY)
        gram = multiply(scaled, scaled.mT)
    for step, (a, b, c) in enumerate(schedule.coefficients):
        if step:
            gram = multiply(scaled, scaled.mT)
        scaled = affine(scaled, _even_part(gram, b, c), scaled, beta=a)
    return scaled


def inverse_root(gram: Tensor, coefficients: Coefficients) -> Tensor:
    """The matrix Q for which ``Q X`` has the polynomials of all steps applied to the singular values of X.

    Only ``R = X X^T`` and Q are carried along, so the long side of X does not appear in the cost:

        Z = a I + b R + c R^2;  Q = Q Z;  R = R Z^2

    Rounding in R counts relative to its largest eigenvalue: in float32 singular values below about 1e-2 of the norm
    have relative errors of 1e-4, below 1e-3 of 1e-2; :func:`direct_factor` has the roots of these.

    Args:
        gram: R [count, m, m] of X with singular values in the interval that the first polynomial is made for.
        coefficients: ``(a, b, c)`` of each step, at least one.

    Returns:
        Q [count, m, m].

    Reference:
        Dao-AILab, Gram Newton-Schulz, 2025.
    """
    a, b, c = coefficients[0]
    even = _even_part(gram, b, c)
    multiplier = even.clone()
    multiplier.diagonal(dim1=-2, dim2=-1).add_(a)
    for following in coefficients[1:]:
        half = affine(gram, gram, even, beta=a)
        gram = affine(half, half, even, beta=a)
        a, b, c = following
        even = _even_part(gram, b, c)
        multiplier = affine(multiplier, multiplier, even, beta=a)
    return multiplier


def shrink(gram: Tensor, norm: Norm, safety: float) -> Tensor:
    """One over safety times an upper bound of the largest singular value.

    ``frobenius`` is ``||X||_F``, ``gram`` is ``sqrt(||X X^T||_F)``: the fourth root of the sum of fourth powers of
    the singular values, between the largest of them and ``||X||_F``.

    Args:
        gram: X X^T [count, m, m].
        norm: which bound.
        safety: >= 1.

    Returns:
        [count, 1, 1], in float32 at least.
    """
    dtype = torch.promote_types(gram.dtype, torch.float32)
    if norm == "gram":
        squared = torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True, dtype=dtype)
    else:
        squared = gram.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=dtype)[..., None, None]
    return squared.clamp_min(TINY).rsqrt() / safety


def _even_part(gram: Tensor, b: float, c: float) -> Tensor:
    return gram * b if c == 0 else affine(gram, gram, gram, beta=b, alpha=c)
