"""How many bytes autograd keeps for the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Kept:
    """The storages that were kept, each counted once however many tensors share it."""

    storages: dict[int, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Their bytes, parameters included where the backward pass needs them."""
        return sum(self.storages.values())


@contextmanager
def kept_for_backward() -> Iterator[Kept]:
    """Count what forward passes inside the block keep for backward.

    Yields:
        :class:`Kept`, filled as the forward runs.

    Example:
        >>> x = torch.ones(10, requires_grad=True)
        >>> with kept_for_backward() as kept:
        ...     y = x.exp()
        >>> kept.bytes
        40
    """
    kept = Kept()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
