"""The keys of a Hugging Face config that choose the residual connection, and the wiring of a trunk that follows."""

from dataclasses import dataclass, fields
from typing import Any

from orthostream import connections
from orthostream.connections import Wiring
from orthostream.errors import UsageError, unknown
from orthostream.layouts.architecture import Rule
from orthostream.layouts.residual_keys import DEFAULTS, current_words, rule_of
from orthostream.models.vit import vit_sites


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

    residual_connection: str = DEFAULTS["residual_connection"]
    residual_options: dict[str, Any] | None = DEFAULTS["residual_options"]
    orthogonal_method: str = DEFAULTS["orthogonal_method"]
    residual_connection_dim: int = DEFAULTS["residual_connection_dim"]
    residual_eps: float | int = DEFAULTS["residual_eps"]
    residual_perturbation: float | int | None = DEFAULTS["residual_perturbation"]

    def __post_init__(self, **others: Any) -> None:
        # Names code of the repository, which is never followed: these classes stand in its place.
        others.pop("auto_map", None)
        _refuse_misspelt(self, others)
        self.residual_connection, self.orthogonal_method = current_words(
            self.residual_connection, self.orthogonal_method
        )
        connection_choice(self)
        super().__post_init__(**others)  # type: ignore[misc]


def connection_choice(config: ResidualKeys) -> Rule:
    """Name and options of the connection that a config asks for, by :func:`~orthostream.layouts.residual_keys.rule_of`.

    Raises:
        UsageError: for an unknown connection, axes that mix the samples of a batch, or keys that have no effect.
    """
    return rule_of({key: getattr(config, key) for key in DEFAULTS})


def wire_trunk(config: Any) -> Wiring:
    """The connections of a trunk of ``num_hidden_layers`` blocks, each with attention and MLP."""
    return connections.wire(connection_choice(config), vit_sites(config.hidden_size, config.num_hidden_layers))


def _refuse_misspelt(config: ResidualKeys, others: dict[str, Any]) -> None:
    known = [each.name for each in fields(config)]
    for key in others:
        if key.startswith(("residual_", "orthogonal_")):
            raise UsageError(unknown("key of the config", key, [k for k in known if k.startswith(("res", "orth"))]))
