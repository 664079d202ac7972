"""Errors that the person at the keyboard can mend.

Each message says what was given, what was expected and what to do next. The command line prints
these without a traceback and exits with code 2; from Python they are ordinary exceptions.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UsageError(ValueError):
    """Something that was given is wrong; the message says what was expected and the next step."""


class MissingExtraError(UsageError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn the ImportError of an optional package into a message that names the extra to install.

    Args:
        extra: name of the extra in ``pyproject.toml`` that brings the packages imported inside.

    Raises:
        MissingExtraError: where an import inside the block fails.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name or error} is not installed, and this part of orthostream needs it; "
            f"install it with: pip install 'orthostream[{extra}]'"
        ) from error


def unknown(kind: str, given: object, known: Iterable[str]) -> str:
    """Message for a name that is not in a list: what was given, the nearest names, the whole list."""
    names = sorted(known)
    near = difflib.get_close_matches(str(given), names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {kind} {str(given)!r}: {hint}known: {', '.join(names) or '(none)'}"
