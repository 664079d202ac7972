"""Reading recipes: a file, the files that it builds upon, and what the command line changes."""

import os
import runpy
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orthostream.errors import UsageError
from orthostream.recipe.find import YAML, find, origin_of
from orthostream.recipe.given import COMMAND_LINE, Given, from_python
from orthostream.recipe.options import Tables
from orthostream.recipe.resolve import Resolved, resolve
from orthostream.recipe.save import changed_values
from orthostream.recipe.schema import SECTIONS, Recipe
from orthostream.recipe.section import kinds_of
from orthostream.recipe.yaml_nodes import LARGEST_FILE, parse, parse_value

BASE = "base"


def load(path_or_name: str | Path, overrides: Sequence[str] = (), tables: Tables | None = None) -> Resolved:
    """Read a recipe and what the command line changes of it.

    Args:
        path_or_name: a file (.yaml; or .py, which is run), or the name of a packaged recipe.
        overrides: ``field=value``, such as ``optimizer.lr=1e-3``, ``connection=orthogonal``, ``train.max_steps=null``.
        tables: from the name of a section to the table that its name and options are checked against.

    Returns:
        The recipe, the source of each value, and notes.

    Raises:
        UsageError: naming all that is wrong, with file and line.
    """
    path = find(path_or_name)
    layers = python_layers(path) if path.suffix == ".py" else yaml_layers(path, origin_of(path))
    return resolve([*layers, *override_layers(overrides)], tables)


def load_python(path: str | Path, overrides: Sequence[str] = (), tables: Tables | None = None) -> Resolved:
    """Run a Python file and take what it calls ``recipe``: a dict, a Recipe, or a function that returns one.

    The file can do whatever a program can; run only files that you trust.

    Args:
        path: the file.
        overrides: as for :func:`load`.
        tables: as for :func:`load`.

    Raises:
        UsageError: where the file fails, has no such name, or the recipe is wrong.
    """
    return resolve([*python_layers(Path(path)), *override_layers(overrides)], tables)


def yaml_layers(path: Path, origin: str, chain: tuple[Path, ...] = ()) -> list[Given]:
    """A file and those that it builds upon by ``base:``, the lowest first.

    Args:
        path: the file.
        origin: its name in messages.
        chain: the files that led here.

    Raises:
        UsageError: for an unreadable file, no plain YAML, or a loop.
    """
    if path.resolve() in chain:
        raise UsageError(f"{origin} is a base of itself: {' -> '.join(p.name for p in (*chain, path))}; break the loop")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(f"{origin} has {path.stat().st_size} bytes; a recipe has at most {LARGEST_FILE}")
        tree = parse(path.read_bytes(), origin)
    except OSError as error:
        raise UsageError(f"cannot read {origin}: {error.strerror}") from None
    if not tree.is_mapping or BASE not in tree.value:
        return [tree]
    base = tree.value.pop(BASE)
    if not isinstance(base.value, str) or not base.value.endswith(YAML):
        raise UsageError(f"{base.source}: base is the path of a .yaml file, got {base.shown()}")
    beneath = path.parent / base.value
    if not beneath.is_file():
        raise UsageError(f"{base.source}: base {base.value!r} is not at {beneath.absolute()}")
    name = os.path.normpath(Path(origin).parent / base.value)
    return [*yaml_layers(beneath, name, (*chain, path.resolve())), tree]


def override_layers(overrides: Sequence[str]) -> list[Given]:
    """The values of ``field=value`` as a layer.

    Raises:
        UsageError: for what has not that form, or is given twice; all of them together.
    """
    layer: dict[str, Given] = {}
    problems = []
    for text in overrides:
        dotted, equals, value = text.partition("=")
        section, dot, name = dotted.strip().partition(".")
        if not equals or not section or (dot and not name):
            problems.append(f"{text!r} is not of the form field=value, such as optimizer.lr=1e-3")
        elif "." in name or (dot and section not in SECTIONS):
            problems.append(f"{dotted}: a field is seed, description or section.name; sections: {', '.join(SECTIONS)}")
        elif problem := _place(layer, section, name, parse_value(value)):
            problems.append(problem)
    if problems:
        raise UsageError("\n".join(f"{COMMAND_LINE}: {problem}" for problem in problems))
    return [Given(layer, COMMAND_LINE)] if layer else []


def _place(layer: dict[str, Given], section: str, name: str, given: Given) -> str | None:
    """Put a value where it belongs; a message where something stands there already."""
    if section in SECTIONS and not given.is_mapping and not name and "name" in kinds_of(SECTIONS[section]):
        # `connection=orthogonal` and `connection.eps=1e-5` are fields of one section.
        name = "name"
    if section in SECTIONS and name:
        holder = layer.setdefault(section, Given({}, COMMAND_LINE)).value
    else:
        holder, name = layer, section
    if name in holder:
        return f"{section}{'.' + name if holder is not layer else ''} is given twice; remove one of the two"
    holder[name] = given
    return None


def python_layers(path: Path) -> list[Given]:
    """What a Python file calls ``recipe``, as a layer."""
    names = run_python(path)
    if "recipe" not in names:
        raise UsageError(f"{path} does not define 'recipe': a dict, a Recipe, or a function that returns one of these")
    return [recipe_layer(names["recipe"], path)]


def recipe_layer(value: Any, path: Path) -> Given:
    """A dict, a Recipe, or what a function of a Python file returns, as a layer.

    Raises:
        UsageError: for anything else, or where the function fails.
    """
    if callable(value):
        with _code_of(path):
            value = value()
    if isinstance(value, Recipe):
        value = changed_values(value)
    if not isinstance(value, Mapping):
        raise UsageError(f"{path}: 'recipe' is a dict, a Recipe, or a function that returns one, got {value!r}")
    return from_python(value, str(path))


def run_python(path: Path) -> dict[str, Any]:
    """Run a configuration file and return its names.

    Raises:
        UsageError: where it fails, with the line of the file.
    """
    if not path.is_file():
        raise UsageError(f"there is no configuration file at {path.absolute()}")
    with _code_of(path):
        return runpy.run_path(str(path), run_name="orthostream_recipe")


@contextmanager
def _code_of(path: Path) -> Iterator[None]:
    """Turn what a configuration file raises into a message with its line."""
    try:
        yield
    except SyntaxError as error:
        raise UsageError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"{path}:{lines[-1]}" if lines else str(path)
        if isinstance(error, UsageError):
            raise UsageError(f"{place}: {error}") from error
        raise UsageError(f"{place}: the configuration file failed with {type(error).__name__}: {error}") from error
