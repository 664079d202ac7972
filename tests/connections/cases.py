"""The connections that answer the questions of ``test_conformance.py``: one row each.

A row says what the rule promises, and the test file asks every row everything. Several rows of one rule differ in
their options.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from orthostream import connections
from orthostream.connections import Components, Connection, Site
from orthostream.ops import orthogonal_update

FEATURES = 6
SHAPES = {"tokens": (3, 5, FEATURES), "maps": (3, FEATURES, 4, 2)}
AXIS = {"tokens": -1, "maps": 1}
# Number of the promises that hold only up to eps = 1e-6, for streams and updates of norm around three.
EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class Case:
    """One rule with its options, and what it promises.

    Args:
        name: of the rule.
        options: as ``connections.create`` takes them.
        on: the layouts of a stream it works on.
        learns: names of its parameters at a site that is written.
        neutral: turns a fresh connection into the plain sum, and returns the factor of its result; ``None`` where no
            setting is the plain sum.
        after_zero: the stream after an update of zeros, from connection, stream and note; the default is the stream.
        adds: what the write adds to the stream, in words of its components; ``None`` where they cannot say it.
        claims: checks of what the rule is for, on a fresh connection, a stream and an update in float64.
        mixes_tokens: whether a token sees others.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    on: tuple[str, ...] = ("tokens", "maps")
    learns: tuple[str, ...] = ()
    neutral: Callable[[Connection], float] | None = None
    after_zero: Callable[[Connection, Any, Any], Any] = lambda connection, stream, note: stream
    adds: Callable[[Connection, Components], Tensor] | None = lambda connection, pieces: pieces.orthogonal
    claims: tuple[Callable[[Connection, Tensor, Tensor], None], ...] = ()
    mixes_tokens: bool = False

    def make(self, layout: str, features: int = FEATURES, **facts: Any) -> Connection:
        site = Site(name="blocks.0.attn", features=features, axis=AXIS[layout], index=1, count=4, **facts)
        return connections.create(self.name, site=site, **self.options)

    def __str__(self) -> str:
        words = [f"{key}={value}".replace(" ", "") for key, value in self.options.items()]
        return "-".join([self.name, *words])


def stir(connection: Connection, scale: float = 0.3) -> Connection:
    """Move every parameter away from its first value, so that every term of the rule counts."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in connection.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator).to(parameter)
    return connection


# Neutral settings: each turns a connection into the plain sum and returns the factor of its result.


def as_made(connection: Connection) -> float:
    return 1.0


def with_alpha_one(connection: Connection) -> float:
    connection.get_parameter("alpha").data.fill_(1)
    return 1.0


def sum_of_equal_streams(connection: Connection) -> float:
    return float(connection.layout[1])


# Claims.


def inner(connection: Connection, a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(connection.dim)


def is_the_sum(connection: Connection, x: Tensor, update: Tensor) -> None:
    assert torch.equal(connection.write(x, update), x + update)


def is_the_difference(connection: Connection, x: Tensor, update: Tensor) -> None:
    assert torch.equal(connection.write(x, update), x - update)


def adds_at_right_angles(connection: Connection, x: Tensor, update: Tensor) -> None:
    added = stir(connection).write(x, update) - x
    assert (inner(connection, x, added).abs() < EPS).all()
    assert (inner(connection, x, update).abs() > EPS).any(), "the update itself is not orthogonal"


def never_shrinks_the_stream(connection: Connection, x: Tensor, update: Tensor) -> None:
    update = update - 2 * x
    result = connection.write(x, update)
    assert (inner(connection, result, result) > inner(connection, x, x) * (1 - EPS)).all()


def removes_its_share(share: float) -> Callable[[Connection, Tensor, Tensor], None]:
    def claim(connection: Connection, x: Tensor, update: Tensor) -> None:
        added = connection.write(x, update) - x
        left = (1 - share) * inner(connection, x, update)
        torch.testing.assert_close(inner(connection, x, added), left, rtol=0, atol=EPS)

    return claim


def starts_as_the_stream(connection: Connection, x: Tensor, update: Tensor) -> None:
    assert torch.equal(connection.write(x, update), x)


def scales_the_update(connection: Connection, x: Tensor, update: Tensor) -> None:
    alpha = stir(connection).get_parameter("alpha")
    torch.testing.assert_close(connection.write(x, update), x + alpha * update, rtol=1e-15, atol=1e-15)


def starts_along_the_stream(connection: Connection, x: Tensor, update: Tensor) -> None:
    orthogonal_part = orthogonal_update(x, update, connection.dim, connection.eps) - x
    added = connection.write(x, update) - x
    torch.testing.assert_close(added, update - orthogonal_part, rtol=0, atol=EPS)


def starts_orthogonal(connection: Connection, x: Tensor, update: Tensor) -> None:
    expected = orthogonal_update(x, update, connection.dim, connection.eps)
    torch.testing.assert_close(connection.write(x, update), expected, rtol=0, atol=EPS)


def drops_the_parallel_part(connection: Connection, x: Tensor, update: Tensor) -> None:
    stir(connection)
    torch.testing.assert_close(connection.write(x, update + 3 * x), connection.write(x, update), rtol=0, atol=EPS)


def starts_with_equal_streams(connection: Connection, x: Tensor, update: Tensor) -> None:
    stream = connection.expand(x)
    _, note = connection.read(stream)
    after = connection.write(stream, update, note)
    for copy in after.unbind(connection.streams_axis):
        assert torch.equal(copy, x + update)


def both_parts(connection: Connection, pieces: Components) -> Tensor:
    return pieces.parallel + pieces.orthogonal


def rescaled(connection: Connection, stream: Tensor, note: None) -> Tensor:
    if connection.rescale_alpha is not None:
        return (1 + connection.rescale_alpha) * stream
    return torch.einsum("oi,bihw->bohw", connection.rescale_proj.weight[:, :, 0, 0], stream)


def mixed_streams(connection: Connection, stream: Tensor, note: Any) -> Tensor:
    if connection.axis == -1:
        return torch.einsum("...ij,...jc->...ic", note.mixing, stream)
    return torch.einsum("bhwij,bjchw->bichw", note.mixing, stream)


def projecting(base: str, dim: tuple[int, ...] | None = None, **options: Any) -> dict[str, Any]:
    return {"base": base, **options} | ({} if dim is None else {"dim": dim})


HYPER_STATIC = ("static_alpha", "static_beta")
HYPER_DYNAMIC = (
    *HYPER_STATIC,
    "dynamic_alpha_fn",
    "dynamic_beta_fn",
    "dynamic_alpha_scale",
    "dynamic_beta_scale",
    "norm_gamma",
)


def hyper(learns: tuple[str, ...] = HYPER_DYNAMIC, **options: Any) -> Case:
    return Case(
        name="hyper_connections",
        options=options,
        learns=learns,
        neutral=sum_of_equal_streams,
        after_zero=mixed_streams,
        adds=None,
        claims=(starts_with_equal_streams,),
    )


CASES = [
    Case(name="linear", neutral=as_made, adds=both_parts, claims=(is_the_sum,)),
    Case(
        name="negative",
        adds=lambda connection, pieces: -both_parts(connection, pieces),
        claims=(is_the_difference,),
    ),
    Case(name="orthogonal", claims=(adds_at_right_angles, never_shrinks_the_stream, removes_its_share(1))),
    Case(name="orthogonal", options={"eps": 1e-9}, claims=(adds_at_right_angles, never_shrinks_the_stream)),
    Case(
        name="orthogonal",
        options={"dim": (1, 2)},
        on=("tokens",),
        claims=(adds_at_right_angles, never_shrinks_the_stream),
        mixes_tokens=True,
    ),
    Case(
        name="orthogonal",
        options={"dim": (1, 2, 3)},
        on=("maps",),
        claims=(adds_at_right_angles, never_shrinks_the_stream),
        mixes_tokens=True,
    ),
    Case(name="orthogonal", options={"strength": 0.0}, neutral=as_made, adds=both_parts, claims=(is_the_sum,)),
    Case(
        name="orthogonal",
        options={"strength": 0.25},
        adds=lambda connection, pieces: pieces.orthogonal + 0.75 * pieces.parallel,
        claims=(removes_its_share(0.25),),
    ),
    Case(
        name="rezero",
        learns=("alpha",),
        neutral=with_alpha_one,
        adds=lambda connection, pieces: connection.alpha * both_parts(connection, pieces),
        claims=(starts_as_the_stream, scales_the_update),
    ),
    Case(
        name="rezero",
        options={"base": "orthogonal"},
        learns=("alpha",),
        claims=(starts_as_the_stream, adds_at_right_angles),
    ),
    Case(
        name="rezero",
        options={"base": "orthogonal", "dim": (1, 2, 3)},
        on=("maps",),
        learns=("alpha",),
        claims=(adds_at_right_angles,),
        mixes_tokens=True,
    ),
    Case(name="rezero_constrained", learns=("theta",), adds=both_parts, claims=(starts_along_the_stream,)),
    Case(
        name="rezero_constrained",
        options={"base": "orthogonal", "start": math.pi / 2},
        learns=("theta",),
        adds=both_parts,
        claims=(starts_orthogonal,),
    ),
    *(
        Case(
            name="rescale_stream",
            options={"base": base, "mode": mode},
            on=("tokens", "maps") if mode == "scalar" else ("maps",),
            learns=("rescale_alpha",) if mode == "scalar" else ("rescale_proj.weight",),
            after_zero=rescaled,
            adds=both_parts,
            claims=(starts_orthogonal, drops_the_parallel_part),
        )
        for base in ("linear", "orthogonal")
        for mode in ("scalar", "conv1x1")
    ),
    hyper(),
    hyper(streams=2, tanh=False),
    hyper(streams=2, norm="layer", learns=(*HYPER_DYNAMIC, "norm_bias")),
    hyper(dynamic=False, learns=HYPER_STATIC),
    hyper(streams=1, dynamic=False, learns=HYPER_STATIC),
]
