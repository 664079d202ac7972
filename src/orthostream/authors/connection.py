"""The authors' flags of the residual connection, and the one connection that they mean together."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from orthostream.authors.flags import FLAGS
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
    notes: tuple[str, ...] = ()

    def setting(self, place: str, value: Any) -> "Meaning":
        """The same with one more field."""
        return replace(self, fields={**self.fields, place: value})

    def noting(self, note: str) -> "Meaning":
        """The same with one more note."""
        return replace(self, notes=(*self.notes, note))


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
        chosen: the flags that were given, which may not contradict each other.
        stream: what the model carries.

    Raises:
        UsageError: for flags that cannot stand together.
    """
    method = _method_of(values, chosen)
    if method.projection == "negative":
        return _negative(values, method)
    if values["orthogonal_prob"] is not None or values["orthogonal_pattern"] is not None:
        meaning = _in_places(values, method)
    else:
        meaning = _everywhere(values, method, stream)
    if method.projection != "global":
        return meaning
    if "orthogonal" not in (meaning.fields["connection.name"], meaning.fields.get("connection.base")):
        return meaning.noting("orthogonal_method global has no effect without orthogonal_residual")
    return _with_axes(meaning, stream)


def _method_of(values: Mapping[str, Any], chosen: Collection[str]) -> Method:
    """Base, pattern and projection, of the method string where it says them and of the other flags where not."""
    text = values["orthogonal_method"]
    method = parse_method(text)
    pattern = "none" if values["residual_pattern"] == "default" else values["residual_pattern"]
    if method.pattern is not None and pattern not in ("none", method.pattern):
        raise UsageError(
            f"orthogonal_method {text!r} and residual_pattern {pattern!r} contradict each other; give one of them"
        )
    base = "orthogonal" if values["orthogonal_residual"] else "linear"
    if method.base is not None and method.base != base and "orthogonal_residual" in chosen:
        switch = "orthogonal_residual" if values["orthogonal_residual"] else "no_orthogonal_residual"
        raise UsageError(f"orthogonal_method {text!r} and {switch} contradict each other; give one of them")
    return Method(method.base or base, method.pattern or pattern, method.projection or "feature")


def _negative(values: Mapping[str, Any], method: Method) -> Meaning:
    others = {
        "orthogonal_residual": method.base == "orthogonal",
        "residual_pattern": method.pattern != "none",
        "orthogonal_pattern": values["orthogonal_pattern"] is not None,
        "orthogonal_prob": values["orthogonal_prob"] is not None,
    }
    if clashes := [name for name, is_set in others.items() if is_set]:
        raise UsageError(
            f"orthogonal_method negative cannot stand with {', '.join(clashes)}; the authors' program crashes on it. "
            "Remove one, for example with --no_orthogonal_residual"
        )
    return Meaning({"connection.name": "negative"})


def _everywhere(values: Mapping[str, Any], method: Method, stream: Stream) -> Meaning:
    """One connection at every site."""
    is_learned, is_orthogonal = method.pattern != "none", method.base == "orthogonal"
    meaning = Meaning({"connection.name": method.pattern if is_learned else method.base})
    if is_learned:
        meaning = meaning.setting("connection.base", method.base)
    if is_orthogonal or method.pattern in ("rezero_constrained", "rescale_stream"):
        meaning = meaning.setting("connection.eps", values["orthogonal_eps"])
    elif values["orthogonal_eps"] != FLAGS["orthogonal_eps"].default:
        meaning = meaning.noting("orthogonal_eps has no effect without orthogonal_residual")
    mode = values["residual_rescale_mode"]
    if method.pattern == "rescale_stream":
        if mode == "conv1x1" and stream == "tokens":
            raise UsageError("residual_rescale_mode conv1x1 needs a ResNet; a ViT takes scalar")
        meaning = meaning.setting("connection.mode", mode)
        if not is_orthogonal:
            meaning = meaning.noting("rescale_stream drops the parallel part of updates on the linear base too")
    elif mode != FLAGS["residual_rescale_mode"].default:
        meaning = meaning.noting("residual_rescale_mode has no effect without residual_pattern rescale_stream")
    return meaning


def _in_places(values: Mapping[str, Any], method: Method) -> Meaning:
    """Orthogonal in some blocks, or with a probability; linear otherwise, whatever orthogonal_residual says."""
    is_drawn = values["orthogonal_prob"] is not None
    flag = "orthogonal_prob" if is_drawn else "orthogonal_pattern"
    if method.pattern != "none":
        raise UsageError(
            f"{flag} switches between orthogonal and linear, which is not supported together with residual_pattern "
            f"{method.pattern}; remove one of them"
        )
    meaning = Meaning({"connection.name": "orthogonal", "connection.eps": values["orthogonal_eps"]})
    if method.base == "linear":
        meaning = meaning.noting(f"{flag} makes blocks orthogonal without orthogonal_residual, as their program does")
    if not is_drawn:
        return meaning.setting("connection.blocks", number_list(values[flag], flag))
    if values["orthogonal_pattern"] is not None:
        meaning = meaning.noting("orthogonal_pattern has no effect: orthogonal_prob draws for every block")
    return meaning.setting("connection.probability", values[flag]).noting(
        "orthogonal_prob is drawn once an optimizer step, equally on all ranks, and evaluations are orthogonal in all "
        "blocks; their program draws for each micro-batch and rank, and evaluates what was drawn last, as "
        "connection.at_evaluation=last does"
    )


def _with_axes(meaning: Meaning, stream: Stream) -> Meaning:
    axes = GLOBAL_AXES[stream]
    reach = "all tokens of an image, so that a token sees the others" if stream == "tokens" else "the whole map"
    return meaning.setting("connection.dim", axes).noting(
        f"orthogonal_method global: the inner product runs over the axes {axes}, {reach}; their program accepts "
        "the word and computes feature"
    )


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
