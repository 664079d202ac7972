"""A table of named things: connections, models, data sets, optimisers.

The entries stand in one visible table in the package that owns them, so that a reader can grep them
and no import order matters. An entry's one-line summary feeds both ``orthostream list`` and the docs.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from orthostream.errors import UsageError, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One row of a table.

    Args:
        make: class or function that makes the thing; its keyword-only arguments are the options.
        summary: one line for lists and documentation.
        reference: paper, with the equation or section where there is one.
    """

    make: Callable[..., T]
    summary: str
    reference: str = ""


class Registry(Generic[T]):
    """Names and what they make; refuses unknown names and names given twice.

    Args:
        kind: the word for one entry in messages, such as "connection".
        entries: the table.

    Example:
        >>> numbers = Registry("number", {"pair": Entry(lambda *, second=2: (1, second), "two numbers")})
        >>> numbers.create("pair", second=3)
        (1, 3)
        >>> numbers.create("pear")
        Traceback (most recent call last):
            ...
        orthostream.errors.UsageError: unknown number 'pear': did you mean pair? known: pair
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry[T]]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def names(self) -> list[str]:
        """All names, in the order of the table."""
        return list(self._entries)

    def __iter__(self) -> Iterator[tuple[str, Entry[T]]]:
        return iter(self._entries.items())

    def __getitem__(self, name: str) -> Entry[T]:
        """The entry of a name.

        Raises:
            UsageError: where the name is not in the table; the message names the nearest ones.
        """
        if name not in self._entries:
            raise UsageError(unknown(self.kind, name, self._entries))
        return self._entries[name]

    def register(self, name: str, make: Callable[..., T], summary: str, reference: str = "") -> None:
        """Add an entry from outside the library.

        Args:
            name: under which it is made; not taken yet.
            make: class or function that makes the thing; its keyword-only arguments are the options.
            summary: one line for lists and documentation.
            reference: paper, with the equation or section where there is one.

        Raises:
            UsageError: where the name is taken.
        """
        if name in self._entries:
            raise UsageError(f"{self.kind} {name!r} is registered already; choose another name")
        self._entries[name] = Entry(make, summary, reference)

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The options of an entry by name: its keyword-only arguments, with their defaults and annotations."""
        parameters = inspect.signature(self[name].make).parameters
        return {key: p for key, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def create(self, name: str, *args: Any, **options: Any) -> T:
        """Make the thing of this name.

        Args:
            name: one of :meth:`names`.
            args: what the caller adds for every entry alike, such as the site of a connection.
            options: those of the entry, by keyword.

        Raises:
            UsageError: for an unknown name, an option that the entry does not have, or one that it needs and lacks.
        """
        entry = self[name]
        known = self.options(name)
        for option in options:
            if option not in known:
                raise UsageError(unknown(f"option of {self.kind} {name!r}", option, known))
        missing = [key for key, p in known.items() if p.default is inspect.Parameter.empty and key not in options]
        if missing:
            raise UsageError(f"{self.kind} {name!r} needs a value for {', '.join(missing)}; give it as an option")
        return entry.make(*args, **options)
