"""Values as a person gave them: with the place where each one stands, before any type is known."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from orthostream.errors import UsageError

COMMAND_LINE = "command line"
DEFAULT = "default"


@dataclass(frozen=True)
class Given:
    """One value, and where it was given.

    Args:
        value: None, a bool, int, float or str; a list of Given; or a dict from str to Given.
        origin: the file as the user named it, ``command line``, or whose default it is.
        line: in that file, from 1; None where there are no lines.
        text: the value as it was written, where that may differ from how it is shown.
        needs_no_quotes: given on a command line, where ``name=no`` can only mean the text.
        is_default: nobody gave it.
        replaced: the earlier value whose place it took, if any.
    """

    value: Any
    origin: str
    line: int | None = None
    text: str = ""
    needs_no_quotes: bool = False
    is_default: bool = False
    replaced: "Given | None" = None

    @property
    def source(self) -> str:
        """Where it stands, such as ``recipes/demo.yaml:12``."""
        return self.origin if self.line is None else f"{self.origin}:{self.line}"

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.value, dict)

    def shown(self) -> str:
        """The value as messages show it, in the words of YAML."""
        if self.value is None:
            return "null"
        if isinstance(self.value, bool | int | float):
            return self.text or str(self.value).lower()
        if isinstance(self.value, str):
            return repr(self.value)
        return "a mapping" if self.is_mapping else "a list"

    def plain(self) -> Any:
        """The value in builtins, without places; lists become tuples."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return tuple(item.plain() for item in self.value)
        return self.value


def from_python(value: Any, origin: str) -> Given:
    """The same for a value of a Python program: builtins only.

    Raises:
        UsageError: for anything that a recipe file could not hold.
    """
    if isinstance(value, Mapping):
        strange = [key for key in value if not isinstance(key, str)]
        if strange:
            raise UsageError(f"{origin}: names in a recipe are text, got {strange[0]!r}")
        return Given({key: from_python(item, origin) for key, item in value.items()}, origin)
    if isinstance(value, list | tuple):
        return Given([from_python(item, origin) for item in value], origin)
    if value is None or type(value) in (bool, int, float, str):
        return Given(value, origin)
    raise UsageError(
        f"{origin}: a recipe holds null, true, false, numbers, text, lists and mappings, "
        f"got {value!r} of type {type(value).__name__}"
    )


def merge(under: Given, over: Given) -> Given:
    """``over`` laid upon ``under``: mappings key by key, anything else as a whole."""
    if not (under.is_mapping and over.is_mapping):
        return replace(over, replaced=under)
    merged = dict(under.value)
    for key, item in over.value.items():
        merged[key] = merge(merged[key], item) if key in merged else item
    return replace(over, value=merged)
