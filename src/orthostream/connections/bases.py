"""The two bases that the authors' variants stand on: the plain sum and the orthogonal update."""

from typing import Literal, TypeAlias, get_args

from torch import Tensor

from orthostream.connections.base import axes_mix_tokens
from orthostream.errors import UsageError, unknown
from orthostream.shapes import Axes

Base: TypeAlias = Literal["linear", "orthogonal"]


def check_base(base: str, dim: Axes | None, axis: int) -> tuple[bool, Axes, bool]:
    """Whether the base is orthogonal, the axes of its inner products, and whether these mix tokens.

    Raises:
        UsageError: for an unknown base.
    """
    if base not in get_args(Base):
        raise UsageError(unknown("base", base, get_args(Base)))
    axes: Axes = axis if dim is None else dim if isinstance(dim, int) else tuple(dim)
    return base == "orthogonal", axes, axes_mix_tokens(axes, axis)


def mean_squared_norm(x: Tensor, axis: int) -> Tensor:
    """Mean over all vectors along ``axis`` of their squared L2 norm, in float32 at least."""
    wide = x if x.is_floating_point() and x.element_size() >= 4 else x.float()
    return wide.square().sum(axis).mean()
