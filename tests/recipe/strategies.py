"""Random valid recipes, made from the annotations and ranges of the fields themselves."""

import types
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st

from orthostream.errors import UsageError
from orthostream.recipe import Recipe
from orthostream.recipe.schema import SECTIONS
from orthostream.recipe.section import OPTIONS, Section, kinds_of

# Words that YAML would take for something else, and signs that it would stumble over.
AWKWARD = [
    "no",
    "null",
    "1e-3",
    "12",
    "~",
    "",
    " a ",
    "a: b",
    "# c",
    "'",
    '"',
    "- x",
    "a\nb",
    "é\u2028",
    "{",
    "\x85",
    "\x7f",
]
TEXTS = st.sampled_from(AWKWARD) | st.text(st.characters(codec="utf-8"), max_size=12)

# Options of the invented tables that stand for every kind of value.
OPTIONS_OF = {
    "connection": st.one_of(
        st.fixed_dictionaries({"name": st.just("linear")}),
        st.fixed_dictionaries(
            {"name": st.just("orthogonal")},
            optional={
                "dim": st.none() | st.integers(-3, 3) | st.lists(st.integers(-3, 3)).map(tuple),
                "eps": st.floats(0, 1),
                "exact": st.booleans(),
            },
        ),
        st.fixed_dictionaries(
            {"name": st.just("mixed")},
            optional={"streams": st.integers(), "norm": st.sampled_from(["rms", "layer"]), "label": TEXTS},
        ),
    ),
    "model": st.fixed_dictionaries(
        {"name": st.just("vit_s")},
        optional={"depth": st.integers(), "ratio": st.floats(allow_nan=False, allow_infinity=False)},
    ),
}


def values_of(kind: Any, limits: dict[str, float]) -> st.SearchStrategy[Any]:
    """Values of an annotation within a range."""
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return st.one_of(*(values_of(member, limits) for member in get_args(kind)))
    if get_origin(kind) is tuple:
        item, *others = get_args(kind)
        if others == [Ellipsis]:
            return st.lists(values_of(item, limits), max_size=4, unique=True).map(lambda v: tuple(sorted(v)))
        return st.tuples(*(values_of(member, limits) for member in get_args(kind)))
    low, high = limits.get("at least", limits.get("above")), limits.get("at most", limits.get("below"))
    numbers = {
        int: st.integers(low, high),
        float: st.floats(
            low,
            high,
            exclude_min="above" in limits,
            exclude_max="below" in limits,
            allow_nan=False,
            allow_infinity=False,
        ),
    }
    return {bool: st.booleans(), str: TEXTS, types.NoneType: st.none(), **numbers}[kind]


def sections(kind: type[Section]) -> st.SearchStrategy[Section]:
    """Sections of one kind in which any field may be left out; those that contradict themselves are not drawn."""
    kinds = kinds_of(kind)
    own = {
        item.name: values_of(kinds[item.name], item.metadata["range"])
        for item in fields(kind)
        if item.name not in SECTIONS and item.name not in (OPTIONS, "name" if kind.section in OPTIONS_OF else "")
    }
    drawn = st.fixed_dictionaries({}, optional=own)
    if kind is Recipe:
        parts = st.fixed_dictionaries({}, optional={name: sections(part) for name, part in SECTIONS.items()})
        return st.builds(lambda values, sections: Recipe(**values, **sections), drawn, parts)
    if kind.section in OPTIONS_OF:
        drawn = st.builds(lambda values, named: {**values, **_named(named)}, drawn, OPTIONS_OF[kind.section])
    return drawn.map(lambda values: _made(kind, values)).filter(lambda section: section is not None)


def recipes() -> st.SearchStrategy[Recipe]:
    """Recipes that the constructors accept."""
    return sections(Recipe)


def _named(named: dict[str, Any]) -> dict[str, Any]:
    return {"name": named["name"], OPTIONS: {key: value for key, value in named.items() if key != "name"}}


def _made(kind: type[Section], values: dict[str, Any]) -> Section | None:
    try:
        return kind(**values)
    except UsageError:
        return None
