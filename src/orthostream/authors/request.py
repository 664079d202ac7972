"""What was asked for: flags from the command line and from a configuration file, checked and converted."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args

from orthostream.authors.flags import AUTHORS_FLAGS, FLAGS, MODELS, OUR_FLAGS, Flag
from orthostream.errors import UsageError, unknown
from orthostream.recipe.find import find, origin_of
from orthostream.recipe.given import COMMAND_LINE, Given, from_python
from orthostream.recipe.load import BASE, recipe_layer, run_python, yaml_layers
from orthostream.recipe.schema import SECTIONS, Recipe
from orthostream.recipe.section import own_fields
from orthostream.recipe.typed import Mismatch, accepts_null, convert
from orthostream.recipe.yaml_nodes import parse_value

OVERRIDES = "overrides"
SWITCH_OFF = "no_"

DESCRIPTION = """Train a classifier by the flags of the authors' program.

Values come from --config_file and are changed by flags, and last by field=value in the words of a recipe, such as
log.wandb=true. The file is YAML or Python, in the layout of a recipe or flat with the flags as keys. A Python file
defines 'recipe' or 'config' and is run: it can do anything, so give only files that you trust."""


@dataclass(frozen=True)
class Request:
    """What a person asked for.

    Args:
        given: the flags that were given, in the file or on the command line, with their places.
        values: the values of these, converted.
        typed: the flags that were given on the command line.
        layers: of a configuration file in the layout of a recipe; None where it is flat or absent.
        overrides: ``field=value``, in the words of a recipe.
        notes: what was read otherwise than it was written.
    """

    given: Mapping[str, Given]
    values: Mapping[str, Any]
    typed: frozenset[str]
    layers: list[Given] | None
    overrides: list[str]
    notes: list[str]


def read_request(argv: Sequence[str]) -> Request:
    """Read the command line and the file that it names.

    Raises:
        UsageError: naming every flag that is unknown, or whose value is wrong, with its place.
    """
    typed, overrides = _command_line(argv)
    flat: Mapping[str, Given] = {}
    layers = None
    if "config_file" in typed:
        layers, flat = _configuration(str(typed["config_file"].text))
    given = {**flat, **typed}
    values, notes = _converted(given)
    return Request(given, values, frozenset(typed), layers, overrides, notes)


class _Parser(argparse.ArgumentParser):
    """Raises instead of leaving the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{COMMAND_LINE}: {message}")


def parser() -> argparse.ArgumentParser:
    """The parser; what is not given does not appear in its result."""
    built = _Parser(
        prog="train_classifier.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for title, flags in (("flags of the authors' program", AUTHORS_FLAGS), ("further flags", OUR_FLAGS)):
        group = built.add_argument_group(title)
        for flag in flags:
            _add(group, flag)
    built.add_argument(OVERRIDES, nargs="*", metavar="field=value", help="changes of the recipe, in its own words")
    return built


def _add(group: Any, flag: Flag) -> None:
    default = f" (default: {flag.default})" if flag.default is not None else ""
    if flag.kind is bool:
        pair = group.add_mutually_exclusive_group()
        for name, value in ((flag.name, True), (SWITCH_OFF + flag.name, False)):
            given = Given(value, COMMAND_LINE)
            text = flag.meaning + default if value else f"turns --{flag.name} off"
            pair.add_argument(f"--{name}", dest=flag.name, action="store_const", const=given, help=text)
        return
    choices = [choice for choice in get_args(flag.kind) if isinstance(choice, str)]
    metavar = "{" + ",".join(choices) + "}" if choices else flag.name.upper()
    group.add_argument(f"--{flag.name}", type=parse_value, metavar=metavar, help=flag.meaning + default)


def _command_line(argv: Sequence[str]) -> tuple[dict[str, Given], list[str]]:
    namespace, strange = parser().parse_known_intermixed_args(argv)
    if strange:
        switches = [SWITCH_OFF + flag.name for flag in FLAGS.values() if flag.kind is bool]
        known = [f"--{name}" for name in (*FLAGS, *switches)]
        raise UsageError("\n".join(f"{COMMAND_LINE}: {unknown('flag', text, known)}" for text in strange))
    given = dict(vars(namespace))
    return given, given.pop(OVERRIDES, [])


def _configuration(name: str) -> tuple[list[Given] | None, Mapping[str, Given]]:
    """The layers of a recipe, or the values of a flat file."""
    path = find(name)
    if path.suffix == ".py":
        layers = _python_configuration(path)
    else:
        layers = yaml_layers(path, origin_of(path))
    top = layers[-1]
    if not top.is_mapping:
        raise UsageError(f"{top.source}: a configuration file is a mapping, got {top.shown()}")
    if len(layers) > 1 or _is_recipe(top.value):
        return layers, {}
    return None, _flat(top.value)


def _python_configuration(path: Path) -> list[Given]:
    names = run_python(path)
    found = [name for name in ("recipe", "config") if name in names]
    if len(found) != 1:
        raise UsageError(
            f"{path} must define one of 'recipe' (in the layout of a recipe) and 'config' (a flat dict of flags), "
            f"it defines {' and '.join(found) or 'neither'}"
        )
    if found == ["recipe"]:
        return [recipe_layer(names["recipe"], path)]
    return [from_python(names["config"], str(path))]


def _is_recipe(values: Mapping[str, Given]) -> bool:
    """Whether a file is in the layout of a recipe: more of its keys belong there than are flags."""
    ours = flat = 0
    for key, given in values.items():
        in_recipe = key in own_fields(Recipe) or key == BASE
        if in_recipe and (key not in FLAGS or given.is_mapping):
            ours += 1
        elif key == "model":
            is_authors = given.value in get_args(MODELS)
            flat, ours = flat + is_authors, ours + (not is_authors)
        elif not in_recipe:
            flat += 1
    return ours > 0 and ours >= flat


def _flat(values: Mapping[str, Given]) -> dict[str, Given]:
    """The values of a flat file, by flag."""
    problems, given = [], {}
    for key, item in values.items():
        if key == "config_file":
            problems.append(f"{item.source}: a configuration file cannot name another one; remove config_file")
        elif key in FLAGS:
            given[key] = item
        elif key == "no_orthogonal_residual" and isinstance(item.value, bool):
            if item.value:
                given["orthogonal_residual"] = Given(False, item.origin, item.line)
        else:
            hint = f"; {key!r} is a section of the other layout" if key in SECTIONS else ""
            problems.append(f"{item.source}: {unknown('key', key, FLAGS)}{hint}")
    if problems:
        raise UsageError("\n".join(problems))
    return given


def _converted(given: Mapping[str, Given]) -> tuple[dict[str, Any], list[str]]:
    values, problems, notes = {}, [], []
    for name, item in given.items():
        kind = FLAGS[name].kind
        # Two of the authors' own recipes write None, which YAML takes for a text.
        if item.value in ("None", "none") and accepts_null(kind) and kind != str | None:
            notes.append(f"{item.source}: {name}: {item.shown()} is read as null")
            item = Given(None, item.origin, item.line)
        try:
            values[name] = convert(item, kind)
        except Mismatch as mismatch:
            problems.append(f"{item.source}: {name}: {mismatch}")
    if problems:
        raise UsageError("\n".join(problems))
    return values, notes
