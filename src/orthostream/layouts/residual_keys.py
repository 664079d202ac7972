"""The keys of a published config that choose the residual connection, and the connection that they mean.

``residual_connection`` names it and ``residual_options`` holds its options; ``orthogonal`` has keys of its own for what
published files have: ``orthogonal_method``, ``residual_connection_dim`` and ``residual_eps``. They are equal for
``ortho_vit`` and ``ortho_llama``.

Source: the published files of Oh et al., arXiv:2505.11881; ``residual_options`` is ours.
"""

from collections.abc import Mapping
from typing import Any

from orthostream import connections
from orthostream.errors import UsageError, unknown
from orthostream.layouts.architecture import Rule
from orthostream.shapes import Axes

DEFAULTS: dict[str, Any] = {
    "residual_connection": "linear",
    "residual_options": None,
    "orthogonal_method": "feature",
    "residual_connection_dim": -1,
    "residual_eps": 1e-6,
    "residual_perturbation": None,
}
# Those that mean something to `orthogonal` alone, and what its option is called.
OWN_OPTION = {"residual_connection_dim": "dim", "residual_eps": "eps"}
OF_ORTHOGONAL = ("orthogonal_method", *OWN_OPTION)

METHODS = ("feature", "global")
# Spellings of files written before 2025-10-01.
OLD_CONNECTIONS = {"identity": "linear"}
OLD_METHODS = {"channel": "feature"}

# A stream of tokens is [batch, tokens, features].
STREAM_NDIM = 3


def rule_of(config: Mapping[str, Any]) -> Rule:
    """Name and options of the connection that a config asks for.

    Args:
        config: the mapping in ``config.json``; keys that are absent have their :data:`DEFAULTS`.

    Returns:
        The connection as :func:`orthostream.connections.create` takes it. ``dim`` is left out where it is the features.

    Raises:
        UsageError: for an unknown word, axes that mix the samples of a batch, keys that would have no effect, and
            noise on updates, which belongs to training.

    Example:
        >>> rule_of({"residual_connection": "orthogonal", "orthogonal_method": "global", "residual_connection_dim": 1})
        ('orthogonal', {'dim': (1, 2), 'eps': 1e-06})
    """
    values = {key: config.get(key, default) for key, default in DEFAULTS.items()}
    name, method = current_words(values["residual_connection"], values["orthogonal_method"])
    values["orthogonal_method"], options = method, dict(values["residual_options"] or {})
    if values["residual_perturbation"] is not None:
        raise UsageError(
            f"residual_perturbation={values['residual_perturbation']} is not supported here, set it to null; noise on "
            "updates belongs to training, see the option perturbation of orthostream.models"
        )
    if method not in METHODS:
        raise UsageError(unknown("orthogonal_method", method, [*METHODS, *OLD_METHODS]))
    if name not in connections.names():
        raise UsageError(unknown("residual_connection", name, connections.names()))
    if name == "orthogonal":
        for key, option in OWN_OPTION.items():
            if option in options:
                raise UsageError(f"residual_options gives {option!r} of orthogonal; give it as {key} instead")
        axes = projection_axes(method, values["residual_connection_dim"])
        return name, {**({} if axes == -1 else {"dim": axes}), "eps": values["residual_eps"], **options}
    # Files of linear models carry the keys of the projection too, without a meaning.
    if name != "linear":
        for key in OF_ORTHOGONAL:
            if values[key] != DEFAULTS[key]:
                raise UsageError(
                    f"{key}={values[key]!r} is a key of 'orthogonal' and would not reach {name!r}; "
                    "give its options in residual_options"
                )
    return name, options


def keys_of(rule: Rule, layout: str) -> dict[str, Any]:
    """The keys that mean a connection; the inverse of :func:`rule_of`.

    Args:
        rule: the connection of all sites.
        layout: what a message calls the files.

    Raises:
        UsageError: for inner products over axes that the keys have no words for.
    """
    name, options = rule[0], dict(rule[1])
    keys = {key: DEFAULTS[key] for key in OF_ORTHOGONAL}
    if name == "orthogonal":
        keys["residual_eps"] = options.pop("eps", keys["residual_eps"])
        dim = options.pop("dim", None)
        axes = (-1,) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
        places = sorted(axis % STREAM_NDIM for axis in axes)
        if places == [1, 2]:
            keys |= {"orthogonal_method": "global", "residual_connection_dim": 1}
        elif places == [1]:
            keys["residual_connection_dim"] = 1
        elif places != [2]:
            raise UsageError(f"{layout} has no words for inner products over the axes {axes}; it has 1, 2 and (1, 2)")
    # Absent where published files have no need of it, so that other readers of these files are not disturbed.
    return {"residual_connection": name, **keys, **({"residual_options": options} if options else {})}


def current_words(connection: str, method: str) -> tuple[str, str]:
    """Connection and method, of which old spellings are read as today's."""
    return OLD_CONNECTIONS.get(connection, connection), OLD_METHODS.get(method, method)


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
