"""Recipes as builtins and as text: written beside results, compared, and read again."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from orthostream.errors import needs_extra
from orthostream.recipe.given import from_python
from orthostream.recipe.options import Tables, entry_options
from orthostream.recipe.resolve import Resolved, resolve
from orthostream.recipe.schema import SECTIONS, Recipe
from orthostream.recipe.section import OPTIONS, Section
from orthostream.recipe.yaml_nodes import parse_value

with needs_extra("vision"):
    import yaml

# What a person reads only: two recipes that differ in it are the same run.
TEXT_ONLY = "description"
PLAIN_WORD = re.compile(r"[A-Za-z][\w/.-]*")


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe in builtins, in the layout of a file: options stand beside the fields of their section."""
    return _as_dict(recipe)


def from_dict(values: Mapping[str, Any], tables: Tables | None = None, origin: str = "recipe") -> Recipe:
    """The recipe of :func:`to_dict`, checked.

    Args:
        values: in the layout of a file.
        tables: as for :func:`orthostream.recipe.load`.
        origin: what messages call it.

    Raises:
        UsageError: naming all that is wrong.
    """
    return resolve([from_python(values, origin)], tables).recipe


def changed_values(recipe: Recipe) -> dict[str, Any]:
    """What of :func:`to_dict` differs from the defaults."""
    defaults, values = to_dict(Recipe()), to_dict(recipe)
    sections = {
        name: {key: value for key, value in values[name].items() if key not in default or default[key] != value}
        for name, default in defaults.items()
        if name in SECTIONS
    }
    own = {name: values[name] for name in values if name not in SECTIONS and values[name] != defaults[name]}
    return own | {name: section for name, section in sections.items() if section}


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every value by its dotted name."""
    values: dict[str, Any] = {}
    for name, value in to_dict(recipe).items():
        values |= {f"{name}.{key}": item for key, item in value.items()} if name in SECTIONS else {name: value}
    return values


def differences(a: Recipe, b: Recipe) -> list[str]:
    """What changes from one recipe to another, a line each; the description does not count.

    Returns:
        Lines such as ``optimizer.lr: 0.001 -> 0.01``, in the order of the fields.
    """
    before, after = flat(a), flat(b)
    missing = object()

    def shown(value: Any) -> str:
        return "(not given)" if value is missing else _scalar(value)

    return [
        f"{place}: {shown(before.get(place, missing))} -> {shown(after.get(place, missing))}"
        for place in before | after
        if place != TEXT_ONLY and before.get(place, missing) != after.get(place, missing)
    ]


def fingerprint(recipe: Recipe) -> str:
    """SHA-256 of the recipe's values, as 64 hexadecimal digits; the description does not count."""
    values = {name: value for name, value in to_dict(recipe).items() if name != TEXT_ONLY}
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def dump(resolved: Resolved, tables: Tables | None = None) -> str:
    """The recipe as YAML in which every value says where it came from; reading it gives the same recipe.

    Args:
        resolved: the recipe with its sources.
        tables: with these, options that were not given stand as comments with their defaults.
    """
    return "\n".join(_lines(resolved, tables or {})) + "\n"


def _lines(resolved: Resolved, tables: Tables) -> Iterator[str]:
    for name, value in to_dict(resolved.recipe).items():
        if name not in SECTIONS:
            yield f"{name}: {_scalar(value)}{_comment(resolved.sources[name])}"
            continue
        yield f"{name}:"
        for key, item in value.items():
            yield f"  {key}: {_scalar(item)}{_comment(resolved.sources[f'{name}.{key}'])}"
        if name in tables and OPTIONS in {item.name for item in fields(SECTIONS[name])}:
            for key, option in entry_options(SECTIONS[name], tables[name], value["name"]).items():
                if key not in value:
                    yield f"  # {key}: {_scalar(_builtin(option.default))}  # default of {value['name']}"


def _comment(source: str) -> str:
    """A source behind its value; a file may have any name, and a line break would end the comment."""
    return "  # " + "".join(sign if sign.isprintable() else " " for sign in source)


def _as_dict(section: Section) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in fields(section):
        value = getattr(section, item.name)
        if item.name == OPTIONS:
            values |= {key: _builtin(option) for key, option in value.items()}
        else:
            values[item.name] = _as_dict(value) if isinstance(value, Section) else _builtin(value)
    return values


def _builtin(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_builtin(item) for item in value]
    if isinstance(value, dict):
        return {key: _builtin(item) for key, item in value.items()}
    return value


def _scalar(value: Any) -> str:
    """One value in one line of YAML."""
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_scalar(item)}" for key, item in value.items()) + "}"
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if PLAIN_WORD.fullmatch(value) and parse_value(value).value == value:
        return str(value)
    return str(yaml.safe_dump(value, default_style='"', allow_unicode=True, width=float("inf"))).rstrip("\n")
