"""What the rules that split an update into a parallel and an orthogonal part have in common."""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from orthostream.errors import UsageError, unknown
from orthostream.ops.orthogonal_update.reference import accumulation_dtype
from orthostream.shapes import Axes

# What a variant of the authors stands on. It decides how the coefficient of the parallel part is guarded
# against a zero stream: eps is a lower bound of the squared norm (linear) or added to it (orthogonal).
Base: TypeAlias = Literal["linear", "orthogonal"]


def is_orthogonal(base: str) -> bool:
    """Whether the base is the orthogonal update.

    Raises:
        UsageError: for an unknown base.
    """
    if base not in get_args(Base):
        raise UsageError(unknown("base", base, get_args(Base)))
    return base == "orthogonal"


def reduction_axes(dim: Axes | None, axis: int) -> Axes:
    """The axes of the inner products: those named, or else the feature axis of the site.

    Raises:
        UsageError: where ``dim`` is neither an axis nor a sequence of distinct axes.
    """
    if dim is None:
        return axis
    if isinstance(dim, int):
        return dim
    if not isinstance(dim, list | tuple) or not all(isinstance(each, int) for each in dim):
        raise UsageError(f"dim is an axis such as -1, or several such as (1, 2, 3), got {dim!r}")
    if not dim or len(set(dim)) < len(dim):
        raise UsageError(f"dim must name one or more distinct axes, got {dim!r}; leave it out for the feature axis")
    return tuple(dim)


def axes_mix_tokens(dim: Axes, axis: int) -> bool:
    """Whether inner products over ``dim`` reach beyond the feature axis, as far as its spelling shows.

    The number of axes of a stream is not known here, so an axis counted from the other end counts as another.
    """
    return dim not in (axis, (axis,))


def checked_eps(eps: float) -> float:
    """The number that guards the division.

    Raises:
        UsageError: where it is negative or no number.
    """
    if not float(eps) >= 0:
        raise UsageError(f"eps guards a division by a squared norm and must be >= 0, got {eps}")
    return float(eps)


def widened(stream: Tensor, update: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    """Both operands in the dtype of the arithmetic (float32, or float64), so that a rule rounds once, at its end."""
    dtype = accumulation_dtype(stream, update)
    return stream.to(dtype), update.to(dtype), dtype


def mean_squared_norm(x: Tensor, axis: int) -> Tensor:
    """Mean over all vectors along ``axis`` of their squared L2 norm, in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).square().sum(axis).mean()
