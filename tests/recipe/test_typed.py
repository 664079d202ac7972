from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest

from orthostream.recipe.given import Given, from_python
from orthostream.recipe.typed import Mismatch, accepts_null, can_be_given, convert, describe
from orthostream.recipe.yaml_nodes import parse, parse_value

Axes = int | tuple[int, ...]


def in_file(text: str) -> Given:
    """A value as a file holds it."""
    return parse(f"a: {text}\n".encode(), "file.yaml").value["a"]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", int, 3),
        ("3", float, 3.0),
        ("1e-3", float, 1e-3),
        ("yes", bool, True),
        ("'no'", str, "no"),
        ("word", str, "word"),
        ("null", int | None, None),
        ("3", int | None, 3),
        ("sgd", Literal["sgd", "adam"], "sgd"),
        ("2", Literal[1, 2], 2),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ("[]", tuple[int, ...], ()),
        ("[1, 2]", tuple[float, float], (1.0, 2.0)),
        ("[1, 2]", Sequence[int], (1, 2)),
        ("[1, 2]", Axes | None, (1, 2)),
        ("-1", Axes | None, -1),
        ("[1, {a: [x]}]", Any, (1, {"a": ("x",)})),
        ("{a: 1}", dict[str, float], {"a": 1.0}),
    ],
)
def test_values_fit(text, kind, value):
    converted = convert(in_file(text), kind)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("3.5", int, "expected a whole number, got 3.5"),
        ("3.0", int, "expected a whole number, got 3.0"),
        ("1e3", int, "expected a whole number, got 1e3"),
        ("true", int, "expected a whole number, got true"),
        ("ten", int, "expected a whole number, got 'ten'"),
        ("'1e-3'", float, "expected a number, got '1e-3'"),
        ("true", float, "expected a number, got true"),
        (".nan", float, "expected a number, got .nan; it must be finite"),
        ("-.inf", float | None, "expected a number or null, got -.inf"),
        ("None", float | None, "expected a number or null, got 'None'; YAML writes 'nothing' as null"),
        ("null", float, "expected a number, got null"),
        ("1", bool, "expected true or false, got 1"),
        ("maybe", bool, "expected true or false, got 'maybe'"),
        ("no", str, "expected a text, got no, which YAML reads as false; write it in quotes: 'no'"),
        ("ON", str | None, "expected a text, got ON, which YAML reads as true; write it in quotes: 'ON'"),
        ("34", str, "expected a text, got 34, which YAML reads as a number; write it in quotes: '34'"),
        ("null", str, "expected a text, got null"),
        ("[a]", str, "expected a text, got a list"),
        ("no", Literal["a", "b"], "expected one of a, b, got no, which YAML reads as false"),
        ("adan", Literal["sgd", "adam"], "unknown value 'adan': did you mean adam? known: adam, sgd"),
        ("null", Literal["none", "x"], "expected one of none, x, got null"),
        ("3", tuple[int, ...], "expected a list of whole numbers, got 3; write [3]"),
        ("[1, x]", tuple[int, ...], "expected a whole number, got 'x'"),
        ("[1, 2, 3]", tuple[float, float], "expected a list of 2 numbers, got a list of 3"),
        ("x", Axes | None, "expected a whole number or a list of whole numbers or null, got 'x'"),
        ("[a]", Axes | None, "expected a whole number, got 'a'"),
        ("{a: 1}", int, "expected a whole number, got a mapping"),
        ("1", dict[str, int], "expected a mapping, got 1"),
        ("1", Callable[..., int], "can be given from Python only"),
    ],
)
def test_values_that_do_not_fit_say_what_was_expected(text, kind, message):
    with pytest.raises(Mismatch) as caught:
        convert(in_file(text), kind)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("no", "no"), ("12", "12"), ("'12'", "12"), ("a: b", "a: b"), ("C:\\x", "C:\\x"), ("", "")]
)
def test_texts_of_the_command_line_need_no_quotes(text, value):
    assert convert(parse_value(text), str) == value
    assert convert(parse_value(text), str | None) == value


def test_null_on_the_command_line_is_null_where_it_may_be():
    assert convert(parse_value("null"), str | None) is None
    assert convert(parse_value("null"), str) == "null"


def test_python_values():
    assert convert(from_python([1, 2], "x.py"), tuple[int, ...]) == (1, 2)
    with pytest.raises(Mismatch, match="expected a number, got '1e-3'"):
        convert(from_python("1e-3", "x.py"), float)


def test_annotations_in_words():
    assert describe(float | None) == "a number or null"
    assert describe(Axes | None) == "a whole number or a list of whole numbers or null"
    assert describe(Literal["a", "b"] | None) == "one of a, b or null"
    assert describe(tuple[float, float]) == "a list of 2 numbers"


def test_what_a_file_can_hold():
    assert accepts_null(int | None)
    assert not accepts_null(int)
    assert can_be_given(Axes | None)
    assert can_be_given(str | Callable[..., int])
    assert not can_be_given(Callable[..., int] | None)
