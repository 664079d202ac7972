"""Tables of named things, and the messages for names that are not in them."""

from typing import Any

import pytest

from orthostream.errors import MissingExtraError, UsageError, needs_extra, unknown
from orthostream.registry import Entry, Registry


class Lamp:
    def __init__(self, room: str = "", *, watts: int, colour: str = "white") -> None:
        self.room, self.watts, self.colour = room, watts, colour


def candle(room: str = "", *, scent: str | None = None) -> Any:
    return ("candle", room, scent)


@pytest.fixture
def lights() -> Registry[Any]:
    return Registry("light", {"lamp": Entry(Lamp, "electric", "Edison 1879"), "candle": Entry(candle, "wax")})


def test_makes_by_name_with_arguments_and_options(lights) -> None:
    lamp = lights.create("lamp", "hall", watts=5)
    assert (lamp.room, lamp.watts, lamp.colour) == ("hall", 5, "white")
    assert lights.create("candle", scent="pine") == ("candle", "", "pine")


def test_lists_names_entries_and_options_in_order(lights) -> None:
    assert lights.names() == ["lamp", "candle"]
    assert [(name, entry.summary, entry.reference) for name, entry in lights] == [
        ("lamp", "electric", "Edison 1879"),
        ("candle", "wax", ""),
    ]
    assert list(lights.options("lamp")) == ["watts", "colour"]
    assert lights.options("lamp")["colour"].default == "white"


def test_refuses_unknown_names_with_the_nearest(lights) -> None:
    with pytest.raises(UsageError, match="unknown light 'lmap': did you mean lamp\\? known: candle, lamp"):
        lights.create("lmap")
    with pytest.raises(UsageError, match="unknown light 'xyz': known: candle, lamp"):
        lights["xyz"]


def test_refuses_unknown_missing_and_positional_options(lights) -> None:
    with pytest.raises(UsageError, match="unknown option of light 'lamp' 'wats': did you mean watts"):
        lights.create("lamp", wats=5)
    with pytest.raises(UsageError, match="light 'lamp' needs a value for watts"):
        lights.create("lamp", colour="red")
    with pytest.raises(UsageError, match="unknown option of light 'lamp' 'room'"):
        lights.create("lamp", room="hall", watts=5)


def test_registers_once(lights) -> None:
    lights.register("torch", lambda *, length=1.0: length, "fire", "prehistory")
    assert lights.create("torch", length=2.0) == 2.0
    assert lights.names() == ["lamp", "candle", "torch"]
    with pytest.raises(UsageError, match="light 'lamp' is registered already"):
        lights.register("lamp", candle, "another")


def test_registering_leaves_the_table_it_was_made_from_alone() -> None:
    table = {"candle": Entry(candle, "wax")}
    Registry("light", table).register("torch", candle, "fire")
    assert list(table) == ["candle"]


def test_message_for_an_empty_list() -> None:
    assert unknown("light", "sun", []) == "unknown light 'sun': known: (none)"


def test_missing_package_names_the_extra_that_brings_it() -> None:
    message = r"no_such_package is not installed.*pip install 'orthostream\[vision\]'"
    with pytest.raises(MissingExtraError, match=message), needs_extra("vision"):
        import no_such_package  # noqa: F401
    assert issubclass(MissingExtraError, ImportError)
    assert issubclass(MissingExtraError, UsageError)
    assert issubclass(UsageError, ValueError)
