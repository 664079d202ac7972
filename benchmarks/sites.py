"""Where updates happen: shapes, dtypes and orders of memory, and the bytes that an update must move there."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from orthostream.shapes import Axes

# The coefficients of all vectors are float32.
COEFFICIENT_BYTES = 4


@dataclass(frozen=True)
class Site:
    """Operands of one update.

    Args:
        place: where such operands occur.
        shape: of the stream and of the update.
        dtype: of the stream.
        update_dtype: of the update, where it differs: autocast gives a half-precision update.
        channels_last: the order of a map in memory.
        dim: axes of the inner products; None for those of the features.
    """

    place: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    update_dtype: torch.dtype | None = None
    channels_last: bool = False
    dim: Axes | None = None

    @property
    def name(self) -> str:
        dtypes = dict.fromkeys((self.dtype, self.update_dtype or self.dtype))
        words = [self.place, str(list(self.shape)), "+".join(str(dtype).removeprefix("torch.") for dtype in dtypes)]
        words += ["channels_last"] * self.channels_last
        return " ".join(words) + (", global" if self.dim is not None else "")

    @property
    def axes(self) -> Axes:
        if self.dim is not None:
            return self.dim
        return 1 if len(self.shape) == 4 else -1

    @property
    def forward_bytes(self) -> int:
        """Stream, update, result and coefficients."""
        return prod(self.shape) * (2 * self.dtype.itemsize + self._update_size) + self._coefficient_bytes

    @property
    def backward_bytes(self) -> int:
        """Gradient, stream, result, the stream's gradient, the update's gradient, and coefficients."""
        return prod(self.shape) * (4 * self.dtype.itemsize + self._update_size) + self._coefficient_bytes

    def tensor(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        made = torch.randn(self.shape, device=device, dtype=dtype or self.dtype)
        return made.contiguous(memory_format=torch.channels_last) if self.channels_last else made

    @property
    def _update_size(self) -> int:
        return (self.update_dtype or self.dtype).itemsize

    @property
    def _coefficient_bytes(self) -> int:
        axes = (self.axes,) if isinstance(self.axes, int) else self.axes
        vectors = prod(self.shape) // prod(self.shape[axis] for axis in axes)
        return COEFFICIENT_BYTES * vectors
