"""The authors' words for a variant, as in the golden sidecars, in ours."""

from typing import Any

from orthostream.connections import Connection


def choice_of(case: dict[str, Any], global_dims: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """Connection name and options of one golden case."""
    base = case.get("method", case.get("residual_connection", "orthogonal"))
    method = case.get("orthogonal_method", "feature").split()[0]
    pattern = case.get("pattern", case.get("residual_pattern", "default"))
    eps = {"eps": case.get("eps", case.get("residual_eps", 1e-6))}
    if pattern == "default" and base == "linear":
        return ("negative" if method == "negative" else "linear"), {}
    if pattern == "default":
        return "orthogonal", eps | ({"dim": global_dims} if method == "global" else {})
    mode = case.get("rescale_mode", case.get("residual_rescale_mode"))
    return pattern, eps | {"base": base} | ({"mode": mode or "scalar"} if pattern == "rescale_stream" else {})


def learned_name(connection: Connection) -> str:
    """Name of the one parameter of a variant; empty where it has none."""
    return next((name for name, _ in connection.named_parameters()), "")
