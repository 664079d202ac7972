"""How alike the representations, or the filters, of one layer are: cosines between distinct pairs. Pure functions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from orthostream.errors import UsageError
from orthostream.ops.autocast import autocast_off
from orthostream.shapes import describe

# Lower bound of a norm, so that an all-zero vector has the cosine 0 with every other one.
EPS = 1e-8


@dataclass(frozen=True)
class Similarity:
    """Absolute cosines of all distinct pairs among ``count`` vectors of ``length`` numbers.

    Args:
        mean: over the pairs, one value a set of vectors.
        variance: over the pairs, unbiased; NaN for a single pair.
        zero: how many of the vectors are zero throughout; each lowers the mean, for its cosines count as 0.
        count: vectors in a set.
        length: numbers in a vector.
    """

    mean: Tensor
    variance: Tensor
    zero: Tensor
    count: int
    length: int

    @property
    def threshold(self) -> float:
        """``4 / sqrt(length)``: four standard deviations of the cosine of independent Gaussian vectors."""
        return 4 / math.sqrt(self.length)

    @property
    def expected(self) -> float:
        """``sqrt(2 / (pi length))``: the mean absolute cosine of independent Gaussian vectors, for long ones."""
        return math.sqrt(2 / (math.pi * self.length))


def pairwise_similarity(vectors: Tensor) -> Similarity:
    """Mean and variance of ``|cos(v_i, v_j)|`` over all pairs ``i < j``.

    Args:
        vectors: ``[..., count, length]``, two vectors or more; leading axes are sets of their own.

    Returns:
        Tensors of the leading shape, float32 or wider.

    Raises:
        UsageError: for fewer than two vectors, or vectors without numbers.

    Example:
        >>> pairwise_similarity(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])).mean
        tensor(0.3333)
    """
    if vectors.ndim < 2 or vectors.shape[-2] < 2 or vectors.shape[-1] < 1:
        raise UsageError(f"similarity is between two vectors or more, [..., count, length], got {describe(vectors)}")
    wide = vectors.detach().to(torch.promote_types(vectors.dtype, torch.float32))
    norms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    unit = wide / norms.clamp_min(EPS)
    count = vectors.shape[-2]
    first, second = torch.triu_indices(count, count, offset=1, device=vectors.device)
    with autocast_off(unit):
        cosines = (unit @ unit.mT)[..., first, second].abs()
    # A single pair has no spread; torch would warn.
    variance = cosines.var(-1) if cosines.shape[-1] > 1 else torch.full_like(cosines[..., 0], math.nan)
    return Similarity(cosines.mean(-1), variance, (norms == 0).sum((-2, -1)), count, vectors.shape[-1])


def representation_similarity(maps: Tensor) -> Similarity:
    """Similarity of the channels of a layer's output, sample by sample.

    Args:
        maps: ``[batch, channels, ...]``, such as the output of a convolution, its batch norm and ReLU; each channel is
            flattened over space.

    Returns:
        One value a sample.

    Raises:
        UsageError: for fewer than two channels, or no axis behind them.

    Reference:
        Tuddenham et al., arXiv:2202.07052, section 3: the mean over distinct pairs of absolute cosines.
    """
    if maps.ndim < 3:
        raise UsageError(f"representations are maps [batch, channels, ...], got {describe(maps)}")
    return pairwise_similarity(maps.flatten(2))


def filter_similarity(weight: Tensor) -> Similarity:
    """Similarity of the filters of a layer, or of the gradients of filters.

    Args:
        weight: ``[filters, ...]``; each filter is flattened, and its numbers are the length of the compared vectors.
            The official code takes the length of the whole tensor for its threshold, which is too low by
            ``sqrt(filters)``.

    Returns:
        Tensors of shape ``()``.

    Raises:
        UsageError: for fewer than two filters, or a tensor with one axis.

    Reference:
        Tuddenham et al., arXiv:2202.07052, section 3.
    """
    if weight.ndim < 2:
        raise UsageError(f"filters are a tensor [filters, ...], got {describe(weight)}")
    return pairwise_similarity(weight.flatten(1))
