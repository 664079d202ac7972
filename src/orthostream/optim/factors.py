"""From stacks of matrices of either orientation to polar factors: scaling, the smaller side, the last product."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from orthostream.optim import polynomial
from orthostream.optim.decompositions import Spectrum, lowest_eigenvalue
from orthostream.optim.polynomial import Norm, gram_of, is_wide
from orthostream.optim.products import multiply
from orthostream.optim.schedules import Schedule

# Gram matrices with norms between these have squares that neither vanish nor overflow in float32.
SMALLEST_NORM, LARGEST_NORM = 1e-18, 1e18


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


def scaled(stack: Tensor) -> Tensor:
    """Matrices [count, rows, columns], rescaled where their squares would not fit."""
    misfits = _misfits(_norm(stack).square()) if stack.device.type == "cpu" else True
    return stack if misfits is None else rescaled(stack, misfits)


@dataclass(frozen=True)
class Grams:
    """Stacks of matrices, and the Gram matrices of their smaller sides m in one stack.

    Args:
        stacks: X [count, rows, columns] each, scaled where squares would not fit.
        gram: S, that is ``X X^T`` of wide and ``X^T X`` of tall matrices [sum of counts, m, m].
        squared: their Frobenius norms ``||S||`` [sum of counts, 1, 1].
        are_finite: whether all are known to be finite.
    """

    stacks: Sequence[Tensor]
    gram: Tensor
    squared: Tensor
    are_finite: bool

    @classmethod
    def of(cls, stacks: Sequence[Tensor]) -> Self:
        """Of stacks with the same smaller side."""
        if stacks[0].device.type != "cpu":
            # Looking would wait for the device.
            stacks = [rescaled(stack) for stack in stacks]
            gram = grams(stacks)
            return cls(stacks, gram, _norm(gram), False)
        gram = grams(stacks)
        squared = _norm(gram)
        misfits = _misfits(squared)
        if misfits is None:
            return cls(stacks, gram, squared, True)
        stacks = [rescaled(stack, part) for stack, part in zip(stacks, parted(misfits, stacks), strict=True)]
        gram = grams(stacks)
        return cls(stacks, gram, _norm(gram), False)

    def spectrum(self) -> Spectrum:
        """Of the Gram matrices."""
        return Spectrum.of(self.gram, None if self.are_finite else self.squared.isfinite())

    def times(self, multiplier: Tensor) -> list[Tensor]:
        """``Q X`` of wide and ``X Q`` of tall matrices for Q [sum of counts, m, m]."""
        return [_product(part, stack) for part, stack in zip(parted(multiplier, self.stacks), self.stacks, strict=True)]


def by_polynomials(stacks: Sequence[Tensor], schedule: Schedule, norm: Norm, most: float = math.inf) -> list[Tensor]:
    """Polar factors by an iteration on Gram matrices.

    Args:
        stacks: X [count, rows, columns] each, with the same smaller side.
        schedule: polynomials and safety factor.
        norm: upper bound of the largest singular value.
        most: matrices whose condition is found to be worse are decomposed instead, those with null directions
            mostly. The condition is the root of the sum of ``(norm / s)^2`` over singular values s. The host waits
            for it, unless ``most`` is infinite.
    """
    known = Grams.of(stacks)
    first, *others = polynomial.stages(schedule.coefficients, known.gram.dtype)
    squared = known.squared if norm == "gram" else polynomial.squared_frobenius(known.gram)
    factor = polynomial.reciprocal_root(squared, schedule.safety)
    multiplier = polynomial.inverse_root(known.gram * factor.square(), first)
    # Q is the inverse root of S / norm^2 where the iteration converged, and larger than 1 / floor where it did not.
    conditions = [] if most == math.inf else _norm(multiplier).flatten().tolist()
    multiplier *= factor
    results = known.times(_mended(multiplier, [condition > most for condition in conditions], known.stacks))
    for stage in others:
        multiplier = polynomial.inverse_root(grams(results), stage)
        results = [_product(part, stack) for part, stack in zip(parted(multiplier, results), results, strict=True)]
    return results


def by_eigen(stacks: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Polar factors by eigendecomposition of Gram matrices.

    Args:
        stacks: X [count, rows, columns] each, float64, with the same smaller side.
        dtype: that entries were computed in; what is below its rounding is left out.
    """
    known = Grams.of(stacks)
    return known.times(known.spectrum().cut_root(lowest_eigenvalue(dtype, known.gram.shape[-1])))


def _mended(multiplier: Tensor, missed: Sequence[bool], stacks: Sequence[Tensor]) -> Tensor:
    """Multipliers, of which some are computed again by eigendecomposition in float64.

    Args:
        multiplier: [count, m, m], overwritten.
        missed: which; none where empty.
        stacks: the matrices, in the same order.
    """
    if not any(missed):
        return multiplier
    chosen = torch.tensor(missed)
    wanting = [x[part].double() for x, part in zip(stacks, parted(chosen, stacks), strict=True) if part.any()]
    spectrum = Grams.of(wanting).spectrum()
    exact = spectrum.cut_root(lowest_eigenvalue(multiplier.dtype, multiplier.shape[-1]))
    multiplier[chosen] = exact.to(multiplier.dtype)
    return multiplier


def grams(stacks: Sequence[Tensor]) -> Tensor:
    """Gram matrices of the smaller sides [sum of counts, m, m]."""
    parts = [gram_of(stack) for stack in stacks]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def parted(whole: Tensor, stacks: Sequence[Tensor]) -> Sequence[Tensor]:
    """The parts of a stack that belong to several."""
    return [whole] if len(stacks) == 1 else torch.split(whole, [len(stack) for stack in stacks])


def _misfits(squared: Tensor) -> Tensor | None:
    """Which squares of norms are too small or too large, or NaN [count, 1, 1]; None where none is."""
    # Comparisons with NaN are false.
    fit = [SMALLEST_NORM < norm < LARGEST_NORM for norm in squared.flatten().tolist()]
    return None if all(fit) else ~torch.tensor(fit)[:, None, None]


def _norm(stack: Tensor) -> Tensor:
    return torch.linalg.vector_norm(stack, dim=(-2, -1), keepdim=True)


def _product(multiplier: Tensor, stack: Tensor) -> Tensor:
    return multiply(multiplier, stack) if is_wide(stack) else multiply(stack, multiplier)
