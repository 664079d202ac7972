"""What every field of a recipe means, for help texts and documentation."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any

from orthostream.recipe.schema import SECTIONS, Recipe
from orthostream.recipe.section import OPTIONS, Section, kinds_of
from orthostream.recipe.typed import describe


@dataclass(frozen=True)
class FieldHelp:
    """One field.

    Args:
        place: its dotted name.
        kind: what it takes, in words, with its range.
        default: what stands there if nothing is given.
        meaning: one line, with the unit.
    """

    place: str
    kind: str
    default: Any
    meaning: str


def field_help() -> list[FieldHelp]:
    """All fields of a recipe, in order; the options of models and connections are told by their tables."""
    own = list(_fields_of(Recipe))
    return own + [line for section in SECTIONS.values() for line in _fields_of(section)]


def _fields_of(section: type[Section]) -> Iterator[FieldHelp]:
    kinds = kinds_of(section)
    for item in fields(section):
        if item.name == OPTIONS or item.default is MISSING:
            continue
        limits = " and ".join(f"{words} {bound}" for words, bound in item.metadata["range"].items())
        unit = item.metadata["unit"]
        yield FieldHelp(
            place=f"{section.section}.{item.name}".lstrip("."),
            kind=describe(kinds[item.name]) + (f", {limits}" if limits else ""),
            default=item.default,
            meaning=item.metadata["help"] + (f" [{unit}]" if unit else ""),
        )
