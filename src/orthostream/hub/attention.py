"""Attention weights can be returned where they are computed, which fused attention never does."""

from collections.abc import Mapping
from typing import Any

from orthostream.errors import UsageError


def refuse_lost_weights(config: Any, options: Mapping[str, Any]) -> None:
    """Refuse a request for attention weights that would return none.

    Args:
        config: of the model.
        options: keywords of its forward.

    Raises:
        UsageError: where ``output_attentions`` is asked of an implementation other than eager.
    """
    if options.get("output_attentions") and config._attn_implementation != "eager":
        raise UsageError(
            f"output_attentions needs eager attention, this model has {config._attn_implementation!r}; "
            "call model.set_attn_implementation('eager') first"
        )
