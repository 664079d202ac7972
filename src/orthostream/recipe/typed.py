"""Given values become values of a declared type, or a sentence that says what was expected.

Nothing is rounded, cut or guessed: ``3.5`` and ``true`` are no whole numbers, ``1`` is no truth value, and what
YAML made of ``no`` is refused where a name was meant.
"""

import math
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from orthostream.errors import unknown
from orthostream.recipe.given import Given


class Mismatch(Exception):
    """A value is not of the expected type; the message says what was expected."""


def convert(given: Given, kind: Any) -> Any:
    """The value as the annotation ``kind`` wants it.

    Args:
        given: the value.
        kind: bool, int, float, str, None, ``Any``, a Literal, a tuple or sequence, or a union of these.

    Returns:
        The value; sequences become tuples.

    Raises:
        Mismatch: where it does not fit.
    """
    origin = get_origin(kind)
    if kind is Any:
        return given.plain()
    if origin is Literal:
        return _choice(given, kind)
    if origin in (Union, types.UnionType):
        return _one_of(given, kind)
    if origin in (tuple, list, Sequence):
        return _sequence(given, kind)
    if origin is dict:
        return _mapping(given, kind)
    if kind not in READERS:
        raise Mismatch("can be given from Python only")
    return READERS[kind](given, kind)


def accepts_null(kind: Any) -> bool:
    """Whether ``None`` is a value of the annotation."""
    return kind in (None, types.NoneType, Any) or any(accepts_null(member) for member in _members(kind))


def can_be_given(kind: Any) -> bool:
    """Whether a recipe file can hold some value of the annotation besides null."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(can_be_given(member) for member in get_args(kind) if member is not types.NoneType)
    return kind is Any or kind in READERS or get_origin(kind) in (Literal, tuple, list, Sequence)


def describe(kind: Any) -> str:
    """The annotation in words, such as ``a whole number or null``."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        # null is the least interesting of several, so it comes last.
        members = sorted((m for m in get_args(kind) if can_be_given(m)), key=lambda m: m is types.NoneType)
        return " or ".join(describe(member) for member in members)
    if get_origin(kind) in (tuple, list, Sequence):
        items = get_args(kind)
        plural = PLURALS.get(items[0], "values")
        count = "" if get_origin(kind) is not tuple or Ellipsis in items else f"{len(items)} "
        return f"a list of {count}{plural}"
    return "a mapping" if get_origin(kind) is dict else WORDS.get(kind, "a value")


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else ()


def _refuse(given: Given, kind: Any, advice: str = "") -> NoReturn:
    if not advice and given.value in ("None", "none", "NULL"):
        advice = "; YAML writes 'nothing' as null"
    raise Mismatch(f"expected {describe(kind)}, got {given.shown()}{advice}")


def _truth(given: Given, kind: Any) -> bool:
    if not isinstance(given.value, bool):
        _refuse(given, kind)
    return given.value


def _whole(given: Given, kind: Any) -> int:
    if isinstance(given.value, bool) or not isinstance(given.value, int):
        _refuse(given, kind)
    return given.value


def _number(given: Given, kind: Any) -> float:
    if isinstance(given.value, bool) or not isinstance(given.value, int | float):
        _refuse(given, kind)
    if not math.isfinite(given.value):
        _refuse(given, kind, "; it must be finite")
    # Minus zero becomes zero: equal recipes are written, and hashed, alike.
    return float(given.value) + 0.0


def _text(given: Given, kind: Any) -> str:
    if isinstance(given.value, str):
        return given.value
    if given.needs_no_quotes and given.text:
        return given.text
    if given.value is None or not isinstance(given.value, bool | int | float):
        _refuse(given, kind)
    if not given.text:
        _refuse(given, kind)
    read_as = ("true" if given.value else "false") if isinstance(given.value, bool) else "a number"
    _refuse(given, kind, f", which YAML reads as {read_as}; write it in quotes: '{given.text}'")


def _null(given: Given, kind: Any) -> None:
    if given.value is not None:
        _refuse(given, kind)


def _choice(given: Given, kind: Any) -> Any:
    choices = get_args(kind)
    if given.value in choices and not isinstance(given.value, bool):
        return given.value
    value = _text(given, kind)
    if value not in choices:
        raise Mismatch(unknown("value", value, map(str, choices)))
    return value


def _one_of(given: Given, kind: Any) -> Any:
    refusals = []
    # null first: on a command line it would also be a text.
    for member in sorted(get_args(kind), key=lambda m: m is not types.NoneType):
        try:
            return convert(given, member)
        except Mismatch as mismatch:
            refusals.append((member, mismatch))
    fitting = [mismatch for member, mismatch in refusals if _has_its_form(given, member)]
    if len(fitting) == 1:
        raise fitting[0]
    _refuse(given, kind)


def _has_its_form(given: Given, kind: Any) -> bool:
    """Whether the value was meant for this member of a union, so that its own message says more."""
    if get_origin(kind) in (tuple, list, Sequence):
        # A single number stands in for a list of one only where no number is allowed.
        return type(given.value) in (list, int)
    if get_origin(kind) is Literal:
        return isinstance(given.value, str)
    return kind is str and isinstance(given.value, bool | int | float)


def _sequence(given: Given, kind: Any) -> tuple[Any, ...]:
    if not isinstance(given.value, list):
        can_wrap = isinstance(given.value, bool | int | float)
        _refuse(given, kind, f"; write [{given.shown()}]" if can_wrap else "")
    items = get_args(kind)
    if get_origin(kind) is tuple and Ellipsis not in items:
        if len(items) != len(given.value):
            _refuse(given, kind, f" of {len(given.value)}")
    else:
        items = (items[0],) * len(given.value)
    return tuple(convert(value, item) for value, item in zip(given.value, items, strict=True))


def _mapping(given: Given, kind: Any) -> dict[str, Any]:
    if not isinstance(given.value, dict):
        _refuse(given, kind)
    return {key: convert(item, get_args(kind)[1]) for key, item in given.value.items()}


READERS: dict[Any, Callable[[Given, Any], Any]] = {
    bool: _truth,
    int: _whole,
    float: _number,
    str: _text,
    None: _null,
    types.NoneType: _null,
}
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    None: "null",
    types.NoneType: "null",
    Any: "a value",
}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts", bool: "true or false"}
