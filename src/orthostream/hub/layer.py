"""What a block of every Hugging Face model does with the stream; the model brings norms and branches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from orthostream.connections import Connection, Wiring
from orthostream.ops.autocast import autocast_dtype
from orthostream.shapes import Stream


class ConnectedLayer:
    """The connections of one block, for a layer of transformers.

    The first block begins the stream and the last one ends it, so that tensors go into the trunk and come out of it
    whatever the loop around the blocks is.
    """

    begin: Connection | None
    end: Connection | None
    attn_connection: Connection
    mlp_connection: Connection

    def connect(self, wiring: Wiring, block: int, blocks: int) -> None:
        """Take the connections of block ``block`` of ``blocks``."""
        self.attn_connection = wiring.at[f"blocks.{block}.attn"]
        self.mlp_connection = wiring.at[f"blocks.{block}.mlp"]
        self.begin = wiring.begin if block == 0 else None
        self.end = wiring.end if block == blocks - 1 else None

    def run(
        self,
        stream: Stream,
        attention_norm: Callable[[Any], Any],
        attention: Callable[[Any], Tensor],
        mlp_norm: Callable[[Any], Any],
        mlp: Callable[[Any], Tensor],
    ) -> Stream:
        """The stream after attention and MLP, each behind its norm."""
        with _weights_in_place(self.begin, self.attn_connection, self.mlp_connection, self.end):
            if self.begin is not None:
                stream = self.begin.expand(stream)
            x, note = self.attn_connection.read(stream, attention_norm)
            update = attention(x)
            stream, x, note = self.attn_connection.write_read(
                stream, update, note, self.mlp_connection, mlp_norm, autocast_dtype(update)
            )
            stream = self.mlp_connection.write(stream, mlp(x), note)
            return stream if self.end is None else self.end.reduce(stream)


@contextmanager
def _weights_in_place(*connections: Connection | None) -> Iterator[None]:
    """Fetch the weights that a device map keeps in memory or on the disk, for as long as a block needs them.

    accelerate fetches the weights of a module when it is called; connections are not called, their verbs are.
    """
    # One connection may stand at several places of a block.
    once = {id(each): each for each in connections if each is not None}
    hooked = [each for each in once.values() if hasattr(each, "_hf_hook")]
    for each in hooked:
        _hook(each).pre_forward(each)
    try:
        yield
    finally:
        for each in hooked:
            _hook(each).post_forward(each, None)


def _hook(connection: Any) -> Any:
    return connection._hf_hook
