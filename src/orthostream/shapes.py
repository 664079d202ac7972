"""Axis names and tensor aliases used in signatures and docstrings.

Axis names, the same word everywhere: ``batch``, ``tokens``, ``streams``, ``features`` (the channel axis
of a map), ``height``, ``width``. A token stream is ``[batch, tokens, features]``, a map
``[batch, features, height, width]``; parallel streams stand just before the features.
"""

from typing import Any, TypeAlias

from torch import Tensor

# The axis, or the axes, over which an inner product runs.
Axes: TypeAlias = int | tuple[int, ...]

# What a trunk carries: a tensor or a (nested) tuple of tensors. Opaque to models, hence Any:
# only the connection that wrote it looks inside.
Stream: TypeAlias = Any

# What `read` hands to `write` at one site: None, a tensor, or a NamedTuple of tensors.
Note: TypeAlias = Any


def describe(tensor: Tensor) -> str:
    """Dtype and shape for error messages, such as ``float32[2, 5, 16]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
