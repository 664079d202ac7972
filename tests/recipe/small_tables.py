"""Tables with invented entries, so that tests of the loader know every option."""

from collections.abc import Sequence
from typing import Any, Literal

from orthostream.registry import Entry, Registry

Axes = int | tuple[int, ...]


class Thing:
    """Takes whatever its signature says."""

    def __init__(self, site: Any = None, **options: Any) -> None:
        self.options = options


def plain(site: Any = None) -> Thing:
    return Thing(site)


def projected(site: Any = None, *, dim: Axes | None = None, eps: float = 1e-6, exact: bool = False) -> Thing:
    return Thing(site)


def mixed(
    site: Any = None, *, streams: int = 4, norm: Literal["rms", "layer"] = "rms", eps: float = 1e-6, label: str = ""
) -> Thing:
    return Thing(site)


def demanding(site: Any = None, *, width: int, hook: Thing | None = None) -> Thing:
    return Thing(site)


def network(
    *,
    num_classes: int,
    image_size: int = 32,
    depth: int = 6,
    ratio: float = 4.0,
    size: tuple[int, int] = (1, 1),
    widths: Sequence[int] = (1, 2),
    gradient_checkpointing: bool = False,
    extra=None,
) -> Thing:
    return Thing()


CONNECTIONS: Registry[Thing] = Registry(
    "connection",
    {
        "linear": Entry(plain, "nothing to set"),
        "orthogonal": Entry(projected, "axes and eps"),
        "mixed": Entry(mixed, "streams"),
        "demanding": Entry(demanding, "an option without a default"),
    },
)
MODELS: Registry[Thing] = Registry("model", {"vit_s": Entry(network, "a network")})
TABLES = {"connection": CONNECTIONS, "model": MODELS}
