"""Polynomial iterations on stacks of matrices: on the matrices themselves, or on their Gram matrices alone."""

from functools import cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from orthostream.optim.products import affine, multiply
from orthostream.optim.schedules import Coefficients, Schedule, Triple

Norm: TypeAlias = Literal["frobenius", "gram"]

# Keeps the quotient finite for a zero matrix; others come scaled and are far above it.
TINY = 1e-30
# What rounding of a Gram matrix, up to eps times its norm, may grow to in an iteration. Eigenvalues below zero, which
# are what must stay small, are a tenth of that or less.
LARGEST_NOISE = 0.5


def direct_factor(matrix: Tensor, schedule: Schedule, norm: Norm, low: torch.dtype | None = None) -> Tensor:
    """Apply odd polynomials to the singular values of matrices, step by step.

        A = X X^T;  X = a X + (b A + c A^2) X

    and of tall ones with ``A = X^T X`` and the product from the right.

    Args:
        matrix: [count, rows, columns].
        schedule: polynomials and safety factor.
        norm: upper bound of the largest singular value: ``frobenius`` is ``||X||_F``, ``gram`` is
            ``sqrt(||X X^T||_F)``, the fourth root of the sum of fourth powers of the singular values.
        low: dtype of the iteration, where it is lower than that of the matrix.

    Returns:
        [count, rows, columns] in the dtype of the iteration.

    Reference:
        Jordan et al., Muon, 2024.
    """
    rounded = matrix if low is None else matrix.to(low)
    if norm == "gram":
        gram = gram_of(rounded)
        squared = torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True, dtype=matrix.dtype)
        factor = reciprocal_root(squared, schedule.safety)
        gram = (gram * factor.square()).to(gram.dtype)
        scaled = torch.mul(matrix, factor, out=torch.empty_like(rounded))
    else:
        # In the dtype of the iteration, as in published code, with which this agrees bit for bit.
        bound = schedule.safety * torch.linalg.vector_norm(rounded, dim=(-2, -1), keepdim=True)
        scaled = rounded / bound.clamp_min(TINY)
        gram = gram_of(scaled)
    for step, (a, b, c) in enumerate(schedule.coefficients):
        if step:
            gram = gram_of(scaled)
        even = _even_part(gram, b, c)
        left, right = (even, scaled) if is_wide(scaled) else (scaled, even)
        scaled = affine(scaled, left, right, beta=a)
    return scaled


def gram_of(stack: Tensor) -> Tensor:
    """``X X^T`` of wide and ``X^T X`` of tall matrices [count, m, m]."""
    return multiply(stack, stack.mT) if is_wide(stack) else multiply(stack.mT, stack)


def is_wide(stack: Tensor) -> bool:
    """Whether matrices have no more rows than columns."""
    return stack.shape[-2] <= stack.shape[-1]


def inverse_root(gram: Tensor, coefficients: Coefficients) -> Tensor:
    """The matrix Q for which ``Q X`` has the polynomials of all steps applied to the singular values of X.

    Only ``R = X X^T`` and Q are carried along, so the long side of X does not appear in the cost:

        Z = a I + b R + c R^2;  Q = Q Z;  R = R Z^2

    Rounding in R counts relative to its largest eigenvalue, so a singular value s of a matrix of norm 1 has a relative
    error of about ``eps / s^2``; in :func:`direct_factor` it is ``eps / s``.

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


@cache
def stages(coefficients: Coefficients, dtype: torch.dtype) -> tuple[Coefficients, ...]:
    """Steps in groups, each of which may be done on Gram matrices before they are formed anew.

    Rounding can make a Gram matrix slightly indefinite. Each step multiplies an eigenvalue near zero by ``a^2``, and
    one that comes out clearly negative makes the iteration diverge.

    Args:
        coefficients: of all steps.
        dtype: of the Gram matrices.

    Example:
        >>> [len(stage) for stage in stages(((1.5, -0.5, 0.0),) * 30, torch.float32)]
        [18, 12]
    """
    most = (LARGEST_NOISE / torch.finfo(dtype).eps) ** 0.5
    groups: list[list[Triple]] = [[]]
    slope = 1.0
    for triple in coefficients:
        slope *= triple[0]
        if slope > most and groups[-1]:
            groups.append([])
            slope = triple[0]
        groups[-1].append(triple)
    return tuple(tuple(group) for group in groups)


def squared_frobenius(gram: Tensor) -> Tensor:
    """``||X||_F^2``, the trace of X X^T [count, m, m], as [count, 1, 1]."""
    return gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def reciprocal_root(squared: Tensor, safety: float) -> Tensor:
    """One over safety times a norm, from its square; finite for zero."""
    return squared.clamp_min(TINY).rsqrt() / safety


def _even_part(gram: Tensor, b: float, c: float) -> Tensor:
    return gram * b if c == 0 else affine(gram, gram, gram, beta=b, alpha=c)
