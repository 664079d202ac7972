"""Which connection a Hugging Face config asks for: its keys, the old spellings, and the wiring of a trunk."""

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from orthostream import connections
from orthostream.connections import Wiring
from orthostream.errors import UsageError, unknown
from orthostream.models.vit import vit_sites
from orthostream.shapes import Axes

Method: TypeAlias = Literal["feature", "global"]

# Spellings of files written before 2025-10-01.
OLD_CONNECTIONS = {"identity": "linear"}
OLD_METHODS = {"channel": "feature"}

# A stream of tokens is [batch, tokens, features].
STREAM_NDIM = 3


@dataclass(kw_only=True, repr=False)
class ResidualKeys:
    """The keys of a config that choose the residual connection, equal for ``ortho_vit`` and ``ortho_llama``.

    Args:
        residual_connection: ``linear``, ``orthogonal``, or any other name of :func:`orthostream.connections.names`.
            ``identity``, an old spelling of ``linear``, is read as that.
        residual_options: options of the connection by name, such as ``{"streams": 2}`` for ``hyper_connections``; of
            ``orthogonal`` those that have no key of their own.
        orthogonal_method: of ``orthogonal``: ``feature`` projects over the axis ``residual_connection_dim`` alone,
            ``global`` over all axes from it on. ``channel``, an old spelling of ``feature``, is read as that.
        residual_connection_dim: of ``orthogonal``: an axis of ``[batch, tokens, features]``; -1 is the features.
        residual_eps: of ``orthogonal``: added to the squared norm.
        residual_perturbation: must be ``None``. The published code has the key and refuses all other values too.

    Raises:
        UsageError: for a value out of range, for keys that the chosen connection would not read, and for a misspelt
            key beginning with ``residual_`` or ``orthogonal_``.

    Reference:
        The keys of the published ``ortho_vit`` files of arXiv:2505.11881; ``residual_options`` is ours.
    """

    residual_connection: str = "linear"
    residual_options: dict[str, Any] | None = None
    orthogonal_method: str = "feature"
    residual_connection_dim: int = -1
    residual_eps: float | int = 1e-6
    residual_perturbation: float | int | None = None

    def __post_init__(self, **others: Any) -> None:
        # Names code of the repository, which is never followed: these classes stand in its place.
        others.pop("auto_map", None)
        _refuse_misspelt(self, others)
        self.residual_connection = OLD_CONNECTIONS.get(self.residual_connection, self.residual_connection)
        self.orthogonal_method = OLD_METHODS.get(self.orthogonal_method, self.orthogonal_method)
        if self.residual_perturbation is not None:
            raise UsageError(
                f"residual_perturbation={self.residual_perturbation} is not supported here, set it to null; "
                "noise on updates belongs to training, see the option perturbation of orthostream.models"
            )
        if self.orthogonal_method not in get_args(Method):
            raise UsageError(unknown("orthogonal_method", self.orthogonal_method, get_args(Method)))
        connection_choice(self)
        super().__post_init__(**others)  # type: ignore[misc]


def connection_choice(config: ResidualKeys) -> tuple[str, dict[str, Any]]:
    """Name and options of the connection that a config asks for.

    Raises:
        UsageError: for an unknown connection, axes that mix the samples of a batch, or keys that have no effect.
    """
    name, options = config.residual_connection, dict(config.residual_options or {})
    if name not in connections.names():
        raise UsageError(unknown("residual_connection", name, connections.names()))
    if name == "orthogonal":
        own = {"dim": "residual_connection_dim", "eps": "residual_eps"}
        for option in sorted(own.keys() & options.keys()):
            raise UsageError(f"residual_options gives {option!r} of orthogonal; give it as {own[option]!r} instead")
        axes = projection_axes(config.orthogonal_method, config.residual_connection_dim)
        return name, {"dim": axes, "eps": config.residual_eps, **options}
    # Files of linear models carry the keys of the projection too, without a meaning.
    if name != "linear":
        for key in ("orthogonal_method", "residual_connection_dim", "residual_eps"):
            if getattr(config, key) != getattr(ResidualKeys, key):
                raise UsageError(
                    f"{key}={getattr(config, key)!r} is a key of 'orthogonal' and would not reach {name!r}; "
                    f"give its options in residual_options"
                )
    return name, options


def projection_axes(method: str, dim: int) -> Axes:
    """The axes of the inner products on ``[batch, tokens, features]``.

    Args:
        method: ``feature`` for the axis alone, ``global`` for all axes from it on.
        dim: the axis.

    Returns:
        -1 for the features, 1 for the tokens, ``(1, 2)`` for both.

    Raises:
        UsageError: where the axes hold the batch, or are none of the stream.

    Example:
        >>> projection_axes("global", -1), projection_axes("global", 1)
        (-1, (1, 2))
    """
    first = dim + STREAM_NDIM if dim < 0 else dim
    if first not in (1, 2):
        raise UsageError(
            f"residual_connection_dim={dim} is the batch, or no axis of [batch, tokens, features]; "
            "use -1 for the features, or 1 for the tokens"
        )
    if first == 2:
        return -1
    return 1 if method == "feature" else (1, 2)


def wire_trunk(config: Any) -> Wiring:
    """The connections of a trunk of ``num_hidden_layers`` blocks, each with attention and MLP."""
    return connections.wire(connection_choice(config), vit_sites(config.hidden_size, config.num_hidden_layers))


def _refuse_misspelt(config: ResidualKeys, others: dict[str, Any]) -> None:
    known = [each.name for each in fields(config)]
    for key in others:
        if key.startswith(("residual_", "orthogonal_")):
            raise UsageError(unknown("key of the config", key, [k for k in known if k.startswith(("res", "orth"))]))
