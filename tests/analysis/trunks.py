"""A trunk of linear branches, small enough to compile in a moment, with every feature a recording must meet."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from orthostream import connections
from orthostream.connections import Choice, Connection, Site

KINDS = ("attn", "mlp")
WIDTH = 16


class Block(nn.Module):
    def __init__(self, attn: Connection, mlp: Connection, checkpointed: bool) -> None:
        super().__init__()
        self.attn_connection, self.mlp_connection = attn, mlp
        self.attn, self.mlp = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.checkpointed = checkpointed

    def forward(self, stream: Tensor) -> Tensor:
        return checkpoint(self._run, stream, use_reentrant=False) if self.checkpointed else self._run(stream)

    def _run(self, stream: Tensor) -> Tensor:
        x, note = self.attn_connection.read(stream)
        stream = self.attn_connection.write(stream, self.attn(x).relu(), note)
        x, note = self.mlp_connection.read(stream)
        return self.mlp_connection.write(stream, self.mlp(x).tanh(), note)


class Trunk(nn.Module):
    def __init__(self, choice: Choice, *, depth: int = 3, checkpointed: bool = False) -> None:
        super().__init__()
        sites = [
            Site(name=f"blocks.{block}.{kind}", kind=kind, features=WIDTH, index=2 * block + place, count=2 * depth,
                 block=block, blocks=depth)
            for block in range(depth)
            for place, kind in enumerate(KINDS)
        ]  # fmt: skip
        wiring = connections.wire(choice, sites)
        self.begin, self.end = wiring.begin, wiring.end
        self.blocks = nn.ModuleList(
            Block(*(wiring.at[f"blocks.{block}.{kind}"] for kind in KINDS), checkpointed) for block in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        stream = self.begin.expand(x)
        for block in self.blocks:
            stream = block(stream)
        return self.end.reduce(stream)


def made(choice: Choice, **options: bool | int) -> tuple[Trunk, Tensor]:
    """The trunk with every parameter away from its neutral start, and an input."""
    torch.manual_seed(0)
    trunk = Trunk(choice, **options)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return trunk, torch.randn(2, 5, WIDTH)
