"""A weight's gradient seen as matrices: one row a component, one column a weight of it."""

from dataclasses import dataclass
from math import prod

from torch import Tensor

from orthostream.errors import UsageError


@dataclass(frozen=True)
class Layout:
    """How a tensor of two or more axes becomes ``blocks`` matrices of ``rows x columns``.

    The first axis counts components (filters, output neurons), all others are flattened:

        tensor [out, in, k...]  ->  [blocks, out / blocks, in * k...]

    Args:
        shape: of the tensor.
        blocks: equal parts of the first axis that are matrices of their own: 1 for a dense layer, 3 for a fused
            query-key-value weight, the number of groups for a grouped convolution whose groups are kept apart.

    Raises:
        UsageError: for fewer than two axes, or a first axis that does not divide.
    """

    shape: tuple[int, ...]
    blocks: int = 1

    def __post_init__(self) -> None:
        if len(self.shape) < 2:
            raise UsageError(f"a tensor of shape {list(self.shape)} is no matrix; two or more axes are needed")
        if self.blocks < 1 or self.shape[0] % self.blocks:
            raise UsageError(
                f"the first axis of a weight of shape {list(self.shape)} does not divide into {self.blocks} blocks"
            )

    @property
    def rows(self) -> int:
        return self.shape[0] // self.blocks

    @property
    def columns(self) -> int:
        return prod(self.shape[1:])

    @property
    def matrix(self) -> tuple[int, ...]:
        """Shape of the matrices: ``(rows, columns)``, or ``(blocks, rows, columns)``."""
        return (self.rows, self.columns) if self.blocks == 1 else (self.blocks, self.rows, self.columns)

    def flatten(self, tensor: Tensor) -> Tensor:
        """The matrices of a tensor; a view wherever its memory allows.

        Columns may come in the order of memory: the polar factor of permuted columns is the permuted factor, and a
        filter that lies channels-last in memory then needs no copy. :meth:`restore` puts them back.
        """
        if tensor.is_contiguous():
            return tensor.view(self.matrix)
        return tensor.permute(_memory_order(tensor)).reshape(self.matrix)

    def restore(self, matrices: Tensor, like: Tensor) -> Tensor:
        """The tensor of such matrices, with the axes of ``like``, from which they were made."""
        if like.is_contiguous():
            return matrices.reshape(self.shape)
        order = _memory_order(like)
        permuted = matrices.reshape([self.shape[axis] for axis in order])
        return permuted.permute([order.index(axis) for axis in range(len(order))])


def _memory_order(tensor: Tensor) -> list[int]:
    """Axes with the first in its place and the others from the slowest to the fastest in memory."""
    return [0, *sorted(range(1, tensor.ndim), key=lambda axis: -tensor.stride()[axis])]
