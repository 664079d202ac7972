"""What every model here offers beyond ``nn.Module``: its sites, its features, and a fresh start."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from orthostream.connections import Connection, Site


class Model(nn.Module, ABC):
    """A trunk of blocks that carries a stream, between an embedding and a head.

    Models know the four verbs of a connection and no connection by name. The ends of the trunk stand at the
    root as ``begin`` and ``end``, the connection of each site in its block.
    """

    # Which data pipeline and which layout of a checkpoint belong to it.
    family: str
    # All places where a branch meets the stream, in order.
    sites: tuple[Site, ...]
    begin: Connection
    end: Connection

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """The reduced stream after the last block, before the head."""

    def reset_parameters(self) -> None:
        """Set every parameter and buffer as a new model has them; needed after meta construction.

        ``with torch.device("meta"): model = create(...)``, then ``model.to_empty(device=...)`` and this. From the same
        state of the generator the result is that of ordinary construction, number by number, where the
        connections start from constants.
        """
        self.reset_own_parameters()
        for child in self.children():
            _reset(child)

    def reset_own_parameters(self) -> None:
        """Set the parameters that the root itself holds; most models have none."""


def _reset(module: nn.Module) -> None:
    # A module that can reset itself answers for its children too: a connection may hold a convolution whose
    # first value is the identity, which the convolution does not know.
    if hasattr(module, "reset_parameters"):
        cast(Callable[[], None], module.reset_parameters)()
        return
    for child in module.children():
        _reset(child)
