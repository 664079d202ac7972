"""Residual connections: one file a rule, and this table of all of them."""

from collections.abc import Sequence
from typing import Any

from orthostream.connections.base import Components, Connection, Site
from orthostream.connections.hyper_connections import HyperConnections
from orthostream.connections.linear import Linear
from orthostream.connections.negative import Negative
from orthostream.connections.orthogonal import Orthogonal
from orthostream.connections.rescale_stream import RescaleStream
from orthostream.connections.rezero import ReZero, ReZeroConstrained
from orthostream.connections.wiring import Choice, Wiring, only_blocks
from orthostream.connections.wiring import wire as _wire
from orthostream.registry import Entry, Registry

__all__ = [
    "Choice",
    "Components",
    "Connection",
    "Site",
    "Wiring",
    "create",
    "names",
    "only_blocks",
    "register",
    "table",
    "wire",
]

ORTHOGONAL_PAPER = "arXiv:2505.11881"

table: Registry[Connection] = Registry(
    "connection",
    {
        "linear": Entry(Linear, "x + u, the plain residual", "arXiv:1512.03385"),
        "orthogonal": Entry(
            Orthogonal, "x + the part of u orthogonal to x, per feature vector or global", ORTHOGONAL_PAPER
        ),
        "negative": Entry(Negative, "x - u", ORTHOGONAL_PAPER),
        "rezero": Entry(ReZero, "x + alpha u, alpha learned from 0, on either base", "arXiv:2003.04887"),
        "rezero_constrained": Entry(
            ReZeroConstrained, "x + cos(theta) u_parallel + sin(theta) u_orthogonal", ORTHOGONAL_PAPER
        ),
        "rescale_stream": Entry(RescaleStream, "(1 + a) x, or W x on maps, + u_orthogonal", ORTHOGONAL_PAPER),
        "hyper_connections": Entry(
            HyperConnections, "n mixed streams with static or dynamic coefficients", "arXiv:2409.19606"
        ),
    },
)

names = table.names
register = table.register


def create(name: str, *, site: Site | None = None, **options: Any) -> Connection:
    """Make a connection by name.

    Args:
        name: one of :func:`names`.
        site: facts about its place; ``None`` keeps all four verbs on one object, for use by hand.
        options: of this rule; an unknown one is refused by name.

    Returns:
        The connection, an ``nn.Module``.

    Raises:
        UsageError: for an unknown name, an unknown option or a value out of range.

    Example:
        >>> create("orthogonal", dim=-1)
        Orthogonal(dim=-1, eps=1e-06, strength=1)
    """
    connection = table.create(name, site, **options)
    connection.spec = (name, options)
    return connection


def wire(choice: Choice, sites: Sequence[Site]) -> Wiring:
    """Make the connections of a trunk: one a site, and the two ends.

    Args:
        choice: a name, ``(name, options)``, a function ``site -> choice``, an instance made by :func:`create`,
            or a table ``{glob over site names: choice, "default": choice}``; the first match wins.
        sites: all sites of the trunk, in order.

    Returns:
        :class:`Wiring` with ``begin``, ``at[site name]`` and ``end``.

    Raises:
        UsageError: for a pattern without a site, a site without a pattern, or streams of different kinds.
    """
    return _wire(choice, sites, create)
