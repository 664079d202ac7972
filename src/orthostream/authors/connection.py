"""The authors' flags of the residual connection, and the one connection that they mean together."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orthostream.errors import UsageError, unknown
from orthostream.recipe import ConnectionRecipe

BASES = {"linear": "linear", "identity": "linear", "orthogonal": "orthogonal"}
PROJECTIONS = {"feature": "feature", "channel": "feature", "global": "global", "negative": "negative"}
LEARNED = ("rezero", "rezero_constrained", "rescale_stream")

# What a model carries.
Stream = Literal["tokens", "maps"]

# The axes of one image: all of its tokens, or its whole map.
GLOBAL_AXES: dict[Stream, list[int]] = {"tokens": [1, 2], "maps": [1, 2, 3]}

CHOOSING_FLAGS = (
    "orthogonal_residual",
    "orthogonal_prob",
    "orthogonal_method",
    "orthogonal_pattern",
    "residual_pattern",
)


@dataclass(frozen=True)
class Meaning:
    """What a group of flags means.

    Args:
        fields: values of a recipe by dotted name.
        notes: where the meaning needed a decision.
    """

    fields: Mapping[str, Any]
    notes: list[str]


@dataclass(frozen=True)
class Method:
    """The parts of a method string; None where it says nothing of one.

    Args:
        base: linear or orthogonal.
        pattern: what is learned.
        projection: feature, global or negative.
    """

    base: str | None = None
    pattern: str | None = None
    projection: str | None = None


def parse_method(text: str) -> Method:
    """Take a method string apart: a projection, a base, a learned pattern, or base and pattern in one word.

    ``channel`` is an older name of feature, ``identity`` of linear; a pattern alone stands on the linear base.

    Raises:
        UsageError: for anything else.
    """
    name = text.lower().replace("-", "_")
    if name in PROJECTIONS:
        return Method(projection=PROJECTIONS[name])
    if name in BASES:
        return Method(base=BASES[name])
    if name in LEARNED:
        return Method(base="linear", pattern=name)
    base, _, pattern = name.partition("_")
    if base in BASES and pattern in LEARNED:
        return Method(base=BASES[base], pattern=pattern)
    raise UsageError(unknown("orthogonal_method", text, (*PROJECTIONS, *BASES, *LEARNED)))


def connection_of(values: Mapping[str, Any], chosen: Collection[str], stream: Stream) -> Meaning:
    """The connection that the flags mean together.

    Args:
        values: of all flags.
        chosen: the flags that were given, so that they may not contradict each other.
        stream: ``tokens`` or ``maps``, what the model carries.

    Raises:
        UsageError: for flags that cannot stand together.
    """
    method = parse_method(values["orthogonal_method"])
    pattern = "none" if values["residual_pattern"] == "default" else values["residual_pattern"]
    if method.pattern is not None:
        if pattern not in ("none", method.pattern):
            raise UsageError(
                f"orthogonal_method {values['orthogonal_method']!r} and residual_pattern {pattern!r} contradict each "
                "other; give one of them"
            )
        pattern = method.pattern
    is_orthogonal = values["orthogonal_residual"]
    if method.base is not None:
        if "orthogonal_residual" in chosen and is_orthogonal != (method.base == "orthogonal"):
            switch = "orthogonal_residual" if is_orthogonal else "no_orthogonal_residual"
            raise UsageError(
                f"orthogonal_method {values['orthogonal_method']!r} contradicts {switch}; remove one of them"
            )
        is_orthogonal = method.base == "orthogonal"
    if method.projection == "negative":
        return _negative(values, pattern, is_orthogonal)
    if values["orthogonal_pattern"] is not None or values["orthogonal_prob"] is not None:
        return _in_places(values, chosen, pattern, method, stream)
    return _everywhere(values, chosen, pattern, method, is_orthogonal, stream)


def _negative(values: Mapping[str, Any], pattern: str, is_orthogonal: bool) -> Meaning:
    others = {
        "orthogonal_residual": is_orthogonal,
        "residual_pattern": pattern != "none",
        "orthogonal_pattern": values["orthogonal_pattern"] is not None,
        "orthogonal_prob": values["orthogonal_prob"] is not None,
    }
    if clashes := [name for name, is_set in others.items() if is_set]:
        raise UsageError(
            f"orthogonal_method negative cannot stand with {', '.join(clashes)}; the authors' program crashes on it. "
            "Remove one, for example with --no_orthogonal_residual"
        )
    return Meaning({"connection.name": "negative"}, [])


def _everywhere(
    values: Mapping[str, Any],
    chosen: Collection[str],
    pattern: str,
    method: Method,
    is_orthogonal: bool,
    stream: Stream,
) -> Meaning:
    """One connection at every site."""
    base = "orthogonal" if is_orthogonal else "linear"
    name = base if pattern == "none" else pattern
    fields: dict[str, Any] = {"connection.name": name}
    notes = []
    if pattern != "none":
        fields["connection.base"] = base
    if pattern == "rescale_stream":
        if values["residual_rescale_mode"] == "conv1x1" and stream == "tokens":
            raise UsageError("residual_rescale_mode conv1x1 needs a ResNet; a ViT takes scalar")
        fields["connection.mode"] = values["residual_rescale_mode"]
        if not is_orthogonal:
            notes.append("rescale_stream drops the parallel part of updates on the linear base too")
    elif "residual_rescale_mode" in chosen:
        notes.append("residual_rescale_mode has no effect without residual_pattern rescale_stream")
    if name != "linear" and (is_orthogonal or pattern != "rezero"):
        fields["connection.eps"] = values["orthogonal_eps"]
    elif "orthogonal_eps" in chosen:
        notes.append(f"orthogonal_eps has no effect with a {name} connection on the linear base")
    if is_orthogonal:
        return _with_axes(fields, notes, method, stream)
    if "orthogonal_method" in chosen and method.projection is not None:
        notes.append(f"orthogonal_method {method.projection} has no effect without orthogonal_residual")
    return Meaning(fields, notes)


def _in_places(
    values: Mapping[str, Any], chosen: Collection[str], pattern: str, method: Method, stream: Stream
) -> Meaning:
    """Orthogonal in some blocks, or with a probability; linear otherwise, whatever orthogonal_residual says."""
    flag = "orthogonal_pattern" if values["orthogonal_prob"] is None else "orthogonal_prob"
    if pattern != "none":
        raise UsageError(
            f"{flag} switches between orthogonal and linear, which is not supported together with residual_pattern "
            f"{pattern}; remove one of them"
        )
    fields: dict[str, Any] = {"connection.name": "orthogonal", "connection.eps": values["orthogonal_eps"]}
    notes = []
    if not values["orthogonal_residual"]:
        notes.append(f"{flag} makes blocks orthogonal without orthogonal_residual, as in the authors' program")
    if flag == "orthogonal_pattern":
        fields["connection.blocks"] = number_list(values["orthogonal_pattern"], "orthogonal_pattern")
        return _with_axes(fields, notes, method, stream)
    fields["connection.probability"] = values["orthogonal_prob"]
    notes.append(
        "orthogonal_prob is drawn once an optimizer step, equally on all ranks; evaluations use the orthogonal "
        "connection in all blocks (the authors' program draws for each micro-batch and rank, and evaluates the last "
        "draw: connection.at_evaluation=last)"
    )
    if "orthogonal_pattern" in chosen and values["orthogonal_pattern"] is not None:
        notes.append("orthogonal_pattern has no effect: orthogonal_prob draws for every block")
    return _with_axes(fields, notes, method, stream)


def _with_axes(fields: dict[str, Any], notes: list[str], method: Method, stream: Stream) -> Meaning:
    if method.projection != "global":
        return Meaning(fields, notes)
    axes = GLOBAL_AXES[stream]
    reach = "all tokens of an image, so each token sees the others" if stream == "tokens" else "the whole map"
    notes.append(
        f"orthogonal_method global: the inner product runs over the axes {axes}, {reach}; the authors' program "
        "accepts the word and computes feature"
    )
    return Meaning({**fields, "connection.dim": axes}, notes)


def number_list(value: str | int | tuple[int, ...] | None, flag: str) -> list[int]:
    """Numbers written as ``0,2,4``, or as a list.

    Raises:
        UsageError: for anything else.
    """
    if not isinstance(value, str):
        return [] if value is None else [value] if isinstance(value, int) else list(value)
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{flag} is a list of whole numbers such as 0,2,4, got {value!r}")
    return [int(part) for part in parts]


def flags_of(connection: ConnectionRecipe) -> dict[str, Any] | None:
    """The flags that mean this connection; None where it has no counterpart among them."""
    options = connection.options
    name, base = connection.name, options.get("base", "linear")
    if name not in (*BASES, *LEARNED, "negative"):
        return None
    is_global = options.get("dim") in [tuple(axes) for axes in GLOBAL_AXES.values()]
    flags = {
        "orthogonal_residual": name == "orthogonal" or (name in LEARNED and base == "orthogonal"),
        "orthogonal_method": "negative" if name == "negative" else "global" if is_global else "feature",
        "residual_pattern": name if name in LEARNED else "default",
        "orthogonal_prob": connection.probability,
        "orthogonal_pattern": connection.blocks,
    }
    given = {"orthogonal_eps": options.get("eps"), "residual_rescale_mode": options.get("mode")}
    return flags | {flag: value for flag, value in given.items() if value is not None}
