"""YAML text becomes given values: every one knows its line, and nothing can be executed.

Of YAML only plain data is read: mappings, lists, text, numbers, booleans and null. Tags beyond these, duplicate
keys, and files that would grow when aliases are followed are refused. ``1e-3`` is a number, as in YAML 1.2.
"""

import re
from typing import Any, NoReturn

from orthostream.errors import UsageError, needs_extra
from orthostream.recipe.given import COMMAND_LINE, Given

with needs_extra("vision"):
    import yaml

LARGEST_FILE = 1_000_000
DEEPEST = 20
MOST_ALIASES = 100

TAG = "tag:yaml.org,2002:"
TRUE, FALSE = ("yes", "true", "on"), ("no", "false", "off")
INTEGER = r"[-+]?(?:0|[1-9][0-9_]*)"
FRACTION = r"[-+]?(?:[0-9][0-9_]*\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
POWER = r"[-+]?[0-9]+[eE][-+]?[0-9]+"


class _Loader(yaml.SafeLoader):
    """Composes nodes to a limited depth, and knows no dates, octal, sexagesimal numbers or merge keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the name and kind that PyYAML looks for
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            _refuse(event.start_mark, f"is nested deeper than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _resolve(kind: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"{TAG}{kind}", re.compile(f"(?:{pattern})$"), list(first))


_resolve("bool", "|".join(f"{word}|{word.title()}|{word.upper()}" for word in TRUE + FALSE), "yYnNtTfFoO")
_resolve("int", INTEGER, "-+0123456789")
_resolve("float", rf"{FRACTION}|{POWER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.0123456789")
_resolve("null", "~|null|Null|NULL|", "~nN")
_Loader.add_implicit_resolver(f"{TAG}null", re.compile("$"), [""])


def _refuse(mark: Any, message: str) -> NoReturn:
    raise UsageError(f"{mark.name}:{mark.line + 1}: {message}")


def parse(data: bytes, origin: str) -> Given:
    """Read one YAML document.

    Args:
        data: the file.
        origin: its name, for messages.

    Returns:
        The tree of given values.

    Raises:
        UsageError: with file and line, for anything that is no plain data.
    """
    if len(data) > LARGEST_FILE:
        raise UsageError(f"{origin} has {len(data)} bytes; a recipe has at most {LARGEST_FILE}")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{origin} is encoded in UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{origin}:{line}: byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from None
    node = _compose(text, origin)
    if node is None:
        raise UsageError(f"{origin} is empty; write at least one section, such as 'model: vit_s'")
    return _Reader(origin).read(node, node.start_mark.line + 1)


def parse_value(text: str) -> Given:
    """Read the value of ``field=value`` on a command line; what is no YAML is a text."""
    try:
        node = _compose(text, COMMAND_LINE)
        given = Given("", COMMAND_LINE) if node is None else _Reader(COMMAND_LINE, has_lines=False).read(node, 1)
    except UsageError:
        given = Given(text, COMMAND_LINE)
    return Given(given.value, COMMAND_LINE, text=text, needs_no_quotes=True)


def _compose(text: str, origin: str) -> Any:
    try:
        loader = _Loader(text)
        loader.name = origin
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(f"{origin}:{line}: character {error.character:#x} is not allowed in YAML") from None
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "is not YAML"
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        if "\\t" in problem:
            problem = "a tab cannot stand here; indent with spaces"
        elif "expected a single document" in (error.context or ""):
            problem = "a second document begins here; a recipe is one document, remove the '---'"
        raise UsageError(f"{origin}:{line}: {problem}") from None


class _Reader:
    """Turns composed nodes into given values, counting how often aliases are followed."""

    def __init__(self, origin: str, *, has_lines: bool = True) -> None:
        self.origin, self.has_lines = origin, has_lines
        self.seen: set[int] = set()
        self.parents: list[int] = []
        self.aliases = 0

    def read(self, node: Any, line: int) -> Given:
        """The value of a node that stands on ``line``."""
        self._count(node)
        self.parents.append(id(node))
        value = self._value(node)
        self.parents.pop()
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        return Given(value, self.origin, line if self.has_lines else None, text)

    def _count(self, node: Any) -> None:
        if id(node) in self.parents:
            _refuse(node.start_mark, "the anchor here contains an alias of itself")
        if id(node) in self.seen:
            self.aliases += 1
            if self.aliases > MOST_ALIASES:
                _refuse(node.start_mark, f"aliases are followed more than {MOST_ALIASES} times; write the values out")
        self.seen.add(id(node))

    def _value(self, node: Any) -> Any:
        kind = node.tag.removeprefix(TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.read(item, item.start_mark.line + 1) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and kind in SCALARS:
            try:
                return SCALARS[kind](node.value)
            except ValueError:
                _refuse(node.start_mark, f"{node.value!r} is no {kind}")
        _refuse(node.start_mark, f"the tag {node.tag!r} is not allowed; a recipe is plain data")

    def _mapping(self, node: Any) -> dict[str, Given]:
        values: dict[str, Given] = {}
        lines: dict[str, int] = {}
        for key_node, item in node.value:
            key, line = self.read(key_node, key_node.start_mark.line + 1), key_node.start_mark.line + 1
            if not isinstance(key.value, str):
                advice = f"; write it in quotes: '{key.text}'" if key.text else ""
                _refuse(key_node.start_mark, f"a name was expected, got {key.shown()}{advice}")
            if key.value in values:
                _refuse(
                    key_node.start_mark,
                    f"{key.value!r} is given twice, first on line {lines[key.value]}; remove one of the two",
                )
            lines[key.value] = line
            values[key.value] = self.read(item, line)
        return values


def _truth(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise ValueError(text)
    return text.lower() in TRUE


def _number(text: str) -> float:
    # .inf and .nan are YAML's spelling; what takes the value refuses numbers that are not finite.
    return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))


SCALARS: dict[str, Any] = {"str": str, "int": int, "float": _number, "bool": _truth, "null": lambda text: None}
