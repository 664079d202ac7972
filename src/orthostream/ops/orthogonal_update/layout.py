"""How a reduction lies in memory: which is all that a kernel needs to know of shapes, strides and axes."""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from orthostream.shapes import Axes


class Layout(NamedTuple):
    """A dense tensor as ``[outer, length, inner]`` in the order of memory, with the inner products along ``length``.

    Tokens, maps in channels_last and whole samples have inner 1: vectors lie in one piece. Maps with channels first
    have as inner the pixels: neighbours in memory belong to different vectors.
    """

    outer: int
    length: int
    inner: int


@lru_cache(maxsize=1024)
def layout(shape: Sequence[int], strides: Sequence[int], dim: Axes) -> Layout | None:
    """The layout of a tensor, or of its contiguous copy where it is not dense.

    Args:
        shape: of the tensor, without an axis of size 0.
        strides: of the tensor, in elements.
        dim: axis or axes of the inner products.

    Returns:
        The layout; None where the axes of the inner products are not neighbours in memory.

    Example:
        >>> layout((8, 64, 7, 7), (3136, 49, 7, 1), 1)
        Layout(outer=8, length=64, inner=49)
        >>> layout((8, 64, 7, 7), (3136, 1, 448, 64), 1)
        Layout(outer=392, length=64, inner=1)
    """
    axes = _counted_from_first(dim, len(shape))
    # Axes of size one lie nowhere in particular.
    places = [axis for axis in range(len(shape)) if shape[axis] > 1]
    if is_dense(shape, strides):
        places.sort(key=lambda axis: -strides[axis])
    reduced = [axis in axes for axis in places]
    if True not in reduced:
        return Layout(prod(shape), 1, 1)
    first, last = reduced.index(True), len(reduced) - reduced[::-1].index(True)
    if not all(reduced[first:last]):
        return None
    sizes = [shape[axis] for axis in places]
    return Layout(prod(sizes[:first]), prod(sizes[first:last]), prod(sizes[last:]))


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether each element has a place of its own and no place is left out."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def dense(x: Tensor) -> Tensor:
    """``x``, or its contiguous copy where it has gaps or repeats elements."""
    return x if x.is_contiguous() or is_dense(x.shape, x.stride()) else x.contiguous()


def in_layout_of(tensor: Tensor, model: Tensor) -> Tensor:
    """``tensor``, copied to the order of memory of ``model`` where it lies in another."""
    if tensor.stride() == model.stride() or (tensor.is_contiguous() and model.is_contiguous()):
        return tensor
    return torch.empty_like(model, dtype=tensor.dtype).copy_(tensor)


def coefficients_like(x: Tensor, dim: Axes, dtype: torch.dtype) -> Tensor:
    """Place for one number a vector, in the order of memory in which the vectors of a dense ``x`` lie."""
    axes = _counted_from_first(dim, x.ndim)
    sizes = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    strides, expected = [0] * x.ndim, 1
    # Of two axes with equal strides, one has size one.
    for axis in sorted(range(x.ndim), key=lambda axis: (x.stride(axis), -axis)):
        strides[axis] = expected
        expected = expected * sizes[axis]
    return torch.empty_strided(sizes, strides, dtype=dtype, device=x.device)


def _counted_from_first(dim: Axes, ndim: int) -> set[int]:
    """Axes as places from 0 on, negative ones too."""
    return {axis % ndim for axis in ((dim,) if isinstance(dim, int) else dim)}
