"""The options of an open section, checked against the signature of the thing that the section names."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from orthostream.errors import unknown
from orthostream.recipe.given import Given
from orthostream.recipe.section import Section, own_fields
from orthostream.recipe.typed import Mismatch, accepts_null, can_be_given, convert
from orthostream.registry import Registry

# From the name of a section to the table that its `name` is looked up in.
Tables = Mapping[str, Registry[Any]]


def entry_options(section: type[Section], table: Registry[Any], name: str) -> dict[str, inspect.Parameter]:
    """What a recipe can set of a table's entry: its keyword-only arguments, without those set elsewhere."""
    evaluated = inspect.signature(table[name].make, eval_str=True).parameters
    taken = own_fields(section) | set(section.elsewhere)
    return {
        key: evaluated[key] for key in table.options(name) if key not in taken and can_be_given(kind_of(evaluated[key]))
    }


def kind_of(option: inspect.Parameter) -> Any:
    """The annotation of an option; anything goes where there is none."""
    return Any if option.annotation is inspect.Parameter.empty else option.annotation


def unknown_key(key: str, where: str, known: Iterable[str]) -> str:
    """Message for a key that is not in a list: where it stands, the nearest names, the whole list."""
    head = f"unknown key {key!r}"
    return f"{head} {where}{unknown('key', key, known).removeprefix(head)}"


class OptionCheck:
    """Checks the options of one open section.

    Args:
        section: the section.
        table: where its name is looked up.
        name: as it was given; it is in the table.
    """

    def __init__(self, section: type[Section], table: Registry[Any], name: Given) -> None:
        self.section, self.table, self.name = section, table, name
        self.known = entry_options(section, table, name.value)

    def value(self, option: str, given: Given) -> Any:
        """The value of an option, of its declared type.

        Raises:
            Mismatch: for an option that the thing does not have, or a wrong type.
        """
        if option not in self.known:
            raise Mismatch(self._stranger(option, given))
        try:
            return convert(given, kind_of(self.known[option]))
        except Mismatch as mismatch:
            raise Mismatch(f"{self.section.section}.{option}: {mismatch}") from None

    def is_taken_back(self, option: str, given: Given) -> bool:
        """Whether null was given in order to forget an earlier value."""
        if given.value is not None or given.replaced is None:
            return False
        return option not in self.known or not accepts_null(kind_of(self.known[option]))

    def missing(self, given: Mapping[str, Any]) -> list[str]:
        """Options without a default that were not given."""
        return [
            key for key, option in self.known.items() if option.default is inspect.Parameter.empty and key not in given
        ]

    def _stranger(self, option: str, given: Given) -> str:
        place, kind, name = f"{self.section.section}.{option}", self.table.kind, self.name.value
        if option in self.section.elsewhere:
            return f"{place} cannot be set here: it {self.section.elsewhere[option]}"
        owner = self._earlier_owner(option)
        if owner is not None:
            return (
                f"{place} is an option of {kind} {owner!r}, but {name!r} was chosen ({self.name.source}), which has no "
                f"such option; take it back with {place}=null on the command line, or remove it here"
            )
        return unknown_key(option, f"for {kind} {name!r}", {*self.known, *own_fields(self.section)})

    def _earlier_owner(self, option: str) -> str | None:
        """The thing that was named before the present one, if this option is one of its own."""
        earlier = self.name.replaced
        while earlier is not None:
            if earlier.value in self.table.names() and option in entry_options(self.section, self.table, earlier.value):
                return str(earlier.value)
            earlier = earlier.replaced
        return None
