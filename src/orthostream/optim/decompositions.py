"""Polar factors from decompositions: exact up to rounding."""

from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

import torch
from torch import Tensor

from orthostream.optim.products import multiply

Completion: TypeAlias = Literal["partial", "svd"]

# The smallest number that a root is taken of; eigenvalues of nonzero matrices come scaled and are far above it.
TINY = 1e-30


def cutoff(dtype: torch.dtype) -> float:
    """Singular values up to this share of the largest are rounding: ``8 eps``.

    A matrix with entries rounded to a unit u = eps / 2 differs from the exact one by a matrix of random entries,
    whose norm is at most about ``1.2 u`` times its own; sums that gave the entries have added more.

    Args:
        dtype: that entries were computed in.

    Example:
        >>> f"{cutoff(torch.float32):.1e}"
        '9.5e-07'
    """
    return 8 * torch.finfo(dtype).eps


def lowest_eigenvalue(dtype: torch.dtype, side: int) -> float:
    """Eigenvalues of a float64 Gram matrix up to this share of the largest are rounding, of the matrix or their own.

    Args:
        dtype: that entries of the matrix were computed in.
        side: the smaller one.
    """
    return max(cutoff(dtype) ** 2, cutoff(torch.float64) * side**0.5)


def svd_factor(matrix: Tensor, completion: Completion) -> Tensor:
    """``U V^T`` of the thin singular value decomposition ``U S V^T``.

    Args:
        matrix: [count, rows, columns], float32 or float64.
        completion: ``svd`` takes all singular directions, so that all ``min(rows, columns)`` singular values of the
            result are 1, whatever LAPACK finds in the null space; ``partial`` those above :func:`cutoff`. A zero
            matrix gives zero in both.

    Returns:
        [count, rows, columns], NaN where a matrix is not finite.

    Reference:
        Tuddenham et al., arXiv:2202.07052, section 2.
    """
    # LAPACK refuses NaN, and answers Inf with a finite result.
    finite = torch.linalg.vector_norm(matrix, ord=torch.inf, dim=(-2, -1), keepdim=True).isfinite()
    u, values, vh = torch.linalg.svd(torch.where(finite, matrix, 0), full_matrices=False)
    share = cutoff(matrix.dtype)
    largest = values[..., :1]
    kept = values > share * largest if completion == "partial" else (largest > 0).expand_as(values)
    return torch.where(finite, torch.bmm(u * kept.to(u.dtype).unsqueeze(-2), vh), torch.nan)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of Gram matrices S = V diag(values) V^T.

    Args:
        values: [count, m], ascending.
        vectors: V [count, m, m].
        finite: whether S was finite [count, 1, 1]; None where all are known to be.
    """

    values: Tensor
    vectors: Tensor
    finite: Tensor | None

    @classmethod
    def of(cls, gram: Tensor, finite: Tensor | None) -> Self:
        """Of Gram matrices [count, m, m]."""
        if gram.shape[-1] == 1:
            return cls(gram[..., 0], torch.ones_like(gram), finite)
        # LAPACK refuses NaN.
        values, vectors = torch.linalg.eigh(gram if finite is None else torch.where(finite, gram, 0), UPLO="U")
        return cls(values, vectors, finite)

    def cut_root(self, lowest: float) -> Tensor:
        """``S^(-1/2)`` without the directions whose eigenvalue is up to ``lowest`` times the largest [count, m, m].

        Zero for a zero matrix, NaN for one that is not finite.
        """
        kept = self.values > lowest * self.values[:, -1:]
        return self._root(torch.where(kept, self.values.clamp_min(TINY) ** -0.25, 0))

    def _root(self, quarter_roots: Tensor) -> Tensor:
        half = self.vectors * quarter_roots.unsqueeze(-2)
        root = multiply(half, half.mT)
        return root if self.finite is None else torch.where(self.finite, root, torch.nan)
