"""Suite ``memory``: what one connection keeps for the backward pass.

Alone, a write keeps the stream and its own result. Inside a model the norms before and after keep these two anyway,
so what a connection really costs is what a chain of norm, branch, write, norm keeps beyond the same chain with the
plain sum. Storages are counted once however many tensors share them; nothing is timed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, Failure, Outcome, Setting, implementations
from benchmarks.rows import Row
from orthostream import connections, ops
from orthostream.analysis.memory import kept_for_backward


@dataclass(frozen=True)
class Trunk:
    """The stream of a model, and what stands around a write in it.

    Args:
        kind: ``tokens``, as in a ViT, or ``map``, as in a ResNet.
        shape: of the stream.
        is_autocast: whether branches compute in bfloat16.
    """

    kind: str
    shape: tuple[int, ...]
    is_autocast: bool

    @property
    def name(self) -> str:
        return f"{self.kind} {list(self.shape)} " + ("under bfloat16 autocast" if self.is_autocast else "float32")

    @property
    def axis(self) -> int:
        return -1 if self.kind == "tokens" else 1

    def stream(self, device: torch.device) -> Tensor:
        """Float32 in a ViT even under autocast, since positions are added; what the stem returns in a ResNet."""
        dtype = torch.bfloat16 if self.is_autocast and self.kind == "map" else torch.float32
        return torch.randn(self.shape, device=device, dtype=dtype, requires_grad=True)

    def norm(self) -> nn.Module:
        features = self.shape[self.axis]
        return nn.LayerNorm(features, elementwise_affine=False) if self.kind == "tokens" else nn.BatchNorm2d(features)

    def branch(self) -> nn.Module:
        features = self.shape[self.axis]
        if self.kind == "tokens":
            return nn.Linear(features, features)
        return nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(features, features, 3, padding=1))


def cases(device: torch.device) -> list[Case]:
    """Tokens of a ViT-S and the first maps of a ResNet, both for images of 32x32."""
    shapes = {"tokens": (64, 65, 384), "map": (32, 64, 32, 32)}
    trunks = [Trunk(kind, shape, is_autocast) for kind, shape in shapes.items() for is_autocast in (False, True)]
    return [Case(trunk.name, partial(measure, trunk)) for trunk in trunks]


def measure(trunk: Trunk, setting: Setting) -> Iterator[Outcome]:
    """Rows of the write alone and of the write between two norms, for each implementation."""
    for surroundings, kept in (("alone", kept_alone), ("between norms", kept_between_norms)):
        plain = kept(trunk, setting.device, "linear")
        for name in implementations(setting.device):
            try:
                with ops.forced(name):
                    orthogonal = kept(trunk, setting.device, "orthogonal")
            except Exception as error:
                yield Failure(f"{name}, {surroundings}", error)
                continue
            yield Row(
                *("memory", f"{trunk.name}, {surroundings}", "linear", f"orthogonal ({name})"),
                saved_mb_base=plain / 1e6,
                saved_mb_other=orthogonal / 1e6,
            )


def kept_alone(trunk: Trunk, device: torch.device, connection: str) -> int:
    """Bytes that one write keeps, of operands such as the branch leaves."""
    write = connections.create(connection, site=connections.Site(axis=trunk.axis)).to(device).write
    stream = trunk.stream(device)
    dtype = torch.bfloat16 if trunk.is_autocast else torch.float32
    update = torch.randn(trunk.shape, device=device, dtype=dtype, requires_grad=True)
    return kept_by(lambda: write(stream, update))


def kept_between_norms(trunk: Trunk, device: torch.device, connection: str) -> int:
    """Bytes that norm, branch, write and norm keep together."""
    write = connections.create(connection, site=connections.Site(axis=trunk.axis)).to(device).write
    before, branch, after = (module.to(device) for module in (trunk.norm(), trunk.branch(), trunk.norm()))
    stream = trunk.stream(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=trunk.is_autocast):
        return kept_by(lambda: after(write(stream, branch(before(stream)))))


def kept_by(run: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps."""
    with kept_for_backward() as kept:
        # Were the result dropped inside, what it keeps could go, and its address serve another storage.
        result = run()
    del result
    return kept.bytes
