"""From stacks of matrices of either orientation to polar factors: scaling, the smaller side, the last product."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from orthostream.optim import polynomial
from orthostream.optim.decompositions import Spectrum, lowest_eigenvalue
from orthostream.optim.polynomial import Norm
from orthostream.optim.products import multiply
from orthostream.optim.schedules import Schedule

# From Gram matrices [count, m, m] the matrices that multiply into polar factors, of the same shape; the stacks of
# matrices themselves are at hand.
Multiplier: TypeAlias = Callable[[Tensor, Sequence[Tensor]], Tensor]

# Gram matrices with norms between these neither lost entries to underflow nor overflowed.
SMALLEST_NORM, LARGEST_NORM = 1e-20, 1e30


def rescaled(stack: Tensor, chosen: Tensor | bool = True) -> Tensor:
    """Matrices times powers of two, so that the largest entry of each is between 0.5 and 1.

    Args:
        stack: [count, rows, columns], float32 or float64.
        chosen: which ones [count, 1, 1]; the others stay as they are.

    Returns:
        The same shape; zero matrices unchanged, NaN throughout where an entry is not finite.
    """
    largest = torch.linalg.vector_norm(stack, ord=torch.inf, dim=(-2, -1), keepdim=True)
    finite = largest.isfinite()
    exponent = torch.where(finite & chosen, largest, 0).frexp().exponent
    # In two halves: one over the smallest numbers overflows.
    half = exponent // 2
    one = torch.where(finite, 1.0, torch.nan).to(stack.dtype)
    return stack * torch.ldexp(one, -half) * torch.ldexp(one, half - exponent)


def in_one_stack(stacks: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Apply a function of scaled wide matrices [count, m, n] to stacks of one shape but for their orientation."""
    wide = [stack if _is_wide(stack) else stack.mT for stack in stacks]
    whole = function(rescaled(torch.cat(wide) if len(wide) > 1 else wide[0]))
    parts = torch.split(whole, [len(stack) for stack in stacks])
    return [part if _is_wide(stack) else part.mT.contiguous() for part, stack in zip(parts, stacks, strict=True)]


def by_multiplier(stacks: Sequence[Tensor], multiplier: Multiplier) -> list[Tensor]:
    """Polar factors ``Q X`` of wide and ``X Q`` of tall matrices, where Q depends on the Gram matrix alone.

    Args:
        stacks: X [count, rows, columns] each, with the same smaller side m.
        multiplier: gives Q [count, m, m] from the Gram matrices ``X X^T`` or ``X^T X`` of the smaller sides, and the
            scaled X.
    """
    stacks, gram = scaled_grams(stacks)
    parts = torch.split(multiplier(gram, stacks), [len(stack) for stack in stacks])
    return [
        multiply(part, stack) if _is_wide(stack) else multiply(stack, part)
        for part, stack in zip(parts, stacks, strict=True)
    ]


def polynomial_multiplier(
    gram: Tensor, stacks: Sequence[Tensor], schedule: Schedule, norm: Norm, most: float = math.inf
) -> Tensor:
    """By an iteration on Gram matrices.

    Args:
        gram: S [count, m, m].
        stacks: the matrices, in the same order.
        schedule: polynomials and safety factor.
        norm: upper bound of the largest singular value.
        most: matrices whose condition is found to be worse are decomposed instead, those with null directions
            mostly. The condition is the root of the sum of ``(norm / s)^2`` over singular values s. The host waits
            for it, unless ``most`` is infinite.
    """
    factor = polynomial.shrink(gram, norm, schedule.safety)
    multiplier = polynomial.inverse_root(gram * factor.square(), schedule.coefficients)
    # Q is the inverse root of S / norm^2 where the iteration converged, and larger than 1 / floor where it did not.
    missed = None if most == math.inf else torch.linalg.vector_norm(multiplier, dim=(-2, -1)) > most
    multiplier *= factor
    return multiplier if missed is None else _mended(multiplier, missed, stacks)


def fast_eigen_multiplier(gram: Tensor, stacks: Sequence[Tensor], floor: float, tol: float) -> Tensor:
    """By eigendecomposition in the dtype of the Gram matrix; below ``floor`` times the largest, singular values fade.

    Args:
        gram: [count, m, m].
        stacks: the matrices, in the same order.
        floor: see above.
        tol: matrices where rounding does more than this are decomposed in float64.
    """
    spectrum = Spectrum.of(gram)
    return _mended(spectrum.fading_root(floor**2), spectrum.rounding_error(floor**2) > tol, stacks)


def eigen_multiplier(gram: Tensor, stacks: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """By eigendecomposition of Gram matrices in float64; what is below the rounding of ``dtype`` is left out."""
    return Spectrum.of(gram).cut_root(lowest_eigenvalue(dtype, gram.shape[-1]))


def _mended(multiplier: Tensor, missed: Tensor, stacks: Sequence[Tensor]) -> Tensor:
    """Multipliers, of which some are computed again by eigendecomposition in float64.

    Args:
        multiplier: [count, m, m], overwritten.
        missed: which [count].
        stacks: the matrices, in the same order.
    """
    if not missed.any():
        return multiplier
    parts = zip(stacks, torch.split(missed, [len(stack) for stack in stacks]), strict=True)
    wanting = [stack[part].double() for stack, part in parts if part.any()]
    multiplier[missed] = eigen_multiplier(grams(wanting), wanting, multiplier.dtype).to(multiplier.dtype)
    return multiplier


def scaled_grams(stacks: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
    """The matrices, scaled where their squares would not fit, and their Gram matrices in one stack."""
    if stacks[0].device.type != "cpu":
        # Looking would wait for the device.
        stacks = [rescaled(stack) for stack in stacks]
        return stacks, grams(stacks)
    gram = grams(stacks)
    norms = torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True)
    # Comparisons with NaN are false.
    misfits = ~((norms > SMALLEST_NORM) & (norms < LARGEST_NORM))
    if not misfits.any():
        return stacks, gram
    chosen = torch.split(misfits, [len(stack) for stack in stacks])
    stacks = [rescaled(stack, part) for stack, part in zip(stacks, chosen, strict=True)]
    return stacks, grams(stacks)


def grams(stacks: Sequence[Tensor]) -> Tensor:
    """``X X^T`` of wide and ``X^T X`` of tall matrices [sum of counts, m, m]."""
    parts = [multiply(x, x.mT) if _is_wide(x) else multiply(x.mT, x) for x in stacks]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _is_wide(stack: Tensor) -> bool:
    return stack.shape[-2] <= stack.shape[-1]
