"""What sections of a recipe have in common: fields that know their meaning and range, checked when made."""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, get_type_hints

from orthostream.errors import UsageError
from orthostream.recipe.given import from_python
from orthostream.recipe.typed import Mismatch, convert

# The field of an open section that holds what its named thing takes.
OPTIONS = "options"

LIMITS: dict[str, Callable[[Any, Any], bool]] = {
    "at least": operator.ge,
    "above": operator.gt,
    "at most": operator.le,
    "below": operator.lt,
}


class SectionError(UsageError):
    """Values that a section refuses.

    Args:
        section: its name, such as ``optimizer``.
        problems: pairs of field and message.
    """

    def __init__(self, section: str, problems: list[tuple[str, str]]) -> None:
        prefix = f"{section}." if section else ""
        super().__init__("\n".join(f"{prefix}{name}: {message}" for name, message in problems))
        self.problems = problems


def setting(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """A field: its default, its meaning in one line, its unit, and the range of its values or items."""
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    limits = {words: bound for words, bound in bounds.items() if bound is not None}
    return field(default=default, metadata={"help": meaning, "unit": unit, "range": limits})


def out_of_range(value: Any, limits: Mapping[str, float]) -> str | None:
    """What is wrong with a number, or with the items of a tuple; None where nothing is."""
    if isinstance(value, tuple):
        return next((problem for item in value if (problem := out_of_range(item, limits))), None)
    if value is None or all(LIMITS[words](value, bound) for words, bound in limits.items()):
        return None
    return f"must be {' and '.join(f'{words} {bound}' for words, bound in limits.items())}, got {value}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a recipe; checks types, ranges and contradictions of its fields when it is made."""

    section: ClassVar[str] = ""
    # Options of the named thing that are set in another place, and where.
    elsewhere: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        problems: list[tuple[str, str]] = []
        kinds = kinds_of(type(self))
        for item in fields(self):
            try:
                value = self._checked(item, kinds[item.name])
            except Mismatch as mismatch:
                problems.append((item.name, str(mismatch)))
            else:
                # Lists become tuples and whole numbers floats, so that equal recipes are equal in every form.
                object.__setattr__(self, item.name, value)
        if problems := problems or list(self.contradictions()):
            raise SectionError(self.section, problems)

    def _checked(self, item: Field[Any], kind: Any) -> Any:
        value = getattr(self, item.name)
        if isinstance(kind, type) and issubclass(kind, Section):
            if not isinstance(value, kind):
                raise Mismatch(f"expected a {kind.__name__}, got {type(value).__name__}")
            return value
        value = convert(from_python(value, self.section or "recipe"), kind)
        if problem := out_of_range(value, item.metadata.get("range", {})):
            raise Mismatch(problem)
        if item.name == OPTIONS and (taken := sorted(set(value) & own_fields(type(self)))):
            raise Mismatch(f"{', '.join(taken)} are fields of the section and stand beside the options")
        return value

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Pairs of field and message for values that cannot stand together."""
        return iter(())

    def remarks(self) -> Iterator[tuple[str, str]]:
        """Pairs of field and message for values that would better not have been given, as they do nothing."""
        return iter(())


def kinds_of(section: type[Section]) -> dict[str, Any]:
    """Annotations of a section's fields."""
    kinds = get_type_hints(section)
    return {item.name: kinds[item.name] for item in fields(section)}


def own_fields(section: type[Section]) -> set[str]:
    """Names of a section's fields, without the one that holds options."""
    return set(kinds_of(section)) - {OPTIONS}
