"""What a block of every Hugging Face model does with the stream; the model brings norms and branches."""

from collections.abc import Callable
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
        if self.begin is not None:
            stream = self.begin.expand(stream)
        x, note = self.attn_connection.read(stream, attention_norm)
        update = attention(x)
        stream, x, note = self.attn_connection.write_read(
            stream, update, note, self.mlp_connection, mlp_norm, autocast_dtype(update)
        )
        stream = self.mlp_connection.write(stream, mlp(x), note)
        return stream if self.end is None else self.end.reduce(stream)
