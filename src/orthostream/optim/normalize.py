"""Gradients divided by their norms: the baselines that the paper sets beside orthogonal gradients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from orthostream.errors import UsageError, unknown
from orthostream.optim.rule import Chunk
from orthostream.shapes import describe

Kind: TypeAlias = Literal["whole", "component"]


@torch.no_grad()
def normalized(matrix: Tensor, kind: Kind, *, equal_length: bool = False) -> Tensor:
    """A gradient divided by its norm.

        whole:      G / ||G||_F
        component:  each row of G by its own norm

    The results have norms 1 and ``sqrt(N)``, a polar factor of rank r ``sqrt(r)``: the three do not take steps of one
    length at one learning rate, unless ``equal_length`` brings them to ``sqrt(min(N, P))``.

    Zero gradients and zero rows stay zero. The official code divides by zero there, and the parameter becomes NaN.

    Args:
        matrix: G [..., N, P], floating point, each trailing matrix for itself.
        kind: ``whole`` (N-SGDM) or ``component`` (CN-SGDM).
        equal_length: scale to the Frobenius norm ``sqrt(min(N, P))``; where all rows are non-zero exactly.

    Returns:
        The same shape and dtype. A matrix with NaN or infinite entries gives NaN, and no other one is touched.

    Raises:
        UsageError: for an unknown kind, fewer than two axes, or a dtype that is not floating point.

    Example:
        >>> normalized(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "component")
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])

    Reference:
        Tuddenham et al., arXiv:2202.07052, section 3.1.
    """
    if kind not in get_args(Kind):
        raise UsageError(unknown("kind of normalisation", kind, get_args(Kind)))
    if matrix.ndim < 2 or not matrix.is_floating_point():
        raise UsageError(f"normalisation takes floating-point matrices [..., N, P], got {describe(matrix)}")
    if matrix.numel() == 0:
        return matrix.clone()
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    axes = (-2, -1) if kind == "whole" else (-1,)
    # Divided by the largest entry first, so that squares neither under- nor overflow.
    wide = wide / _or_one(torch.linalg.vector_norm(wide, ord=torch.inf, dim=axes, keepdim=True))
    wide = wide / _or_one(torch.linalg.vector_norm(wide, dim=axes, keepdim=True))
    rows, columns = matrix.shape[-2:]
    if equal_length:
        wide = wide * (math.sqrt(min(rows, columns)) / (1.0 if kind == "whole" else math.sqrt(rows)))
    if kind == "component":
        # One row with NaN makes the whole gradient NaN, as in all other rules.
        wide = torch.where(wide.sum((-2, -1), keepdim=True).isnan(), torch.nan, wide)
    return wide.to(matrix.dtype)


def _or_one(norm: Tensor) -> Tensor:
    """Infinite norms give NaN, zero ones leave zeros alone."""
    return torch.where(norm == 0, 1, torch.where(norm.isinf(), torch.nan, norm))


@dataclass(frozen=True)
class NormRule:
    """Each matrix is divided by its norm.

    Args:
        kind, equal_length: as in :func:`normalized`.

    Raises:
        UsageError: for an unknown kind.
    """

    kind: Kind
    equal_length: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(unknown("kind of normalisation", self.kind, get_args(Kind)))

    def plan(self, shapes: Sequence[tuple[int, ...]], device: torch.device) -> tuple[Chunk, ...]:
        """Each matrix for itself: nothing is gained together."""
        return tuple(Chunk((index,), 5.0 * math.prod(shape)) for index, shape in enumerate(shapes))

    def run(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """The normalised matrices of one chunk."""
        return [normalized(matrix, self.kind, equal_length=self.equal_length) for matrix in matrices]
