"""Layers of given values become one recipe in which each value knows where it came from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import Any

from orthostream.errors import UsageError
from orthostream.recipe.given import DEFAULT, Given, merge
from orthostream.recipe.options import OptionCheck, Tables, unknown_key
from orthostream.recipe.schema import SECTIONS, Recipe
from orthostream.recipe.section import OPTIONS, Section, SectionError, kinds_of, out_of_range, own_fields
from orthostream.recipe.typed import Mismatch, convert

NOT_GIVEN = Given(None, DEFAULT, is_default=True)


@dataclass(frozen=True)
class Resolved:
    """A recipe and the origin of its values.

    Args:
        recipe: the recipe.
        sources: from dotted name, such as ``optimizer.lr``, to ``recipes/demo.yaml:12``, ``command line`` or
            ``default``.
        notes: values that were given and do nothing, one line each; for the person to read.
    """

    recipe: Recipe
    sources: Mapping[str, str]
    notes: tuple[str, ...] = ()


def resolve(layers: Sequence[Given], tables: Tables | None = None) -> Resolved:
    """Lay the given values over one another, check them, and make the recipe.

    Args:
        layers: mappings in the layout of a recipe, later ones on top.
        tables: from the name of a section to the table of what it may name. Where a section has none, its name
            and options are taken as they are.

    Returns:
        The recipe with sources and notes.

    Raises:
        UsageError: naming all that is wrong, each with its place.
    """
    tree = reduce(merge, map(_with_named_sections, layers), replace(NOT_GIVEN, value={}))
    return _Resolution(tables or {}).run(tree)


def _with_named_sections(layer: Given) -> Given:
    """The layer with every ``section: name`` written as ``section: {name: ...}``, and empty sections as such."""
    if not layer.is_mapping:
        raise UsageError(f"{layer.source}: a recipe is a mapping of sections, got {layer.shown()}")
    return replace(layer, value={key: _section(key, given) for key, given in layer.value.items()})


def _section(key: str, given: Given) -> Given:
    if key not in SECTIONS or isinstance(given.value, dict | list):
        return given
    if given.value is None:
        return replace(given, value={})
    return replace(given, value={"name": given}) if "name" in kinds_of(SECTIONS[key]) else given


@dataclass
class _Resolution:
    """One pass over a tree: collects values, sources and everything that is wrong."""

    tables: Tables
    places: dict[str, Given] = field(default_factory=dict[str, Given])
    problems: list[tuple[Given, str]] = field(default_factory=list[tuple[Given, str]])

    def run(self, tree: Given) -> Resolved:
        for key, given in tree.value.items():
            if key not in own_fields(Recipe):
                self._refuse(given, _unknown_in(Recipe, key))
        values = self._fields(Recipe, tree.value)
        for name, kind in SECTIONS.items():
            section = self._section(kind, tree.value.get(name, replace(NOT_GIVEN, value={})))
            if section is not None:
                values[name] = section
        if self.problems:
            # In the order of the lines of each file.
            ordered = sorted(self.problems, key=lambda problem: (problem[0].origin, problem[0].line or 0))
            raise UsageError("\n".join(f"{given.source}: {message}" for given, message in ordered))
        recipe = Recipe(**values)
        sources = {place: given.source for place, given in self.places.items()}
        return Resolved(recipe, sources, tuple(self._notes(recipe)))

    def _refuse(self, given: Given, message: str) -> None:
        self.problems.append((given, message))

    def _section(self, kind: type[Section], given: Given) -> Section | None:
        """The section, or None where something in it is wrong."""
        if not given.is_mapping:
            self._refuse(given, f"section {kind.section!r} is a mapping of its fields, got {given.shown()}")
            return None
        before = len(self.problems)
        values = self._fields(kind, given.value)
        strangers = {key: item for key, item in given.value.items() if key not in own_fields(kind)}
        if OPTIONS in kinds_of(kind):
            values[OPTIONS] = self._options(kind, given.value, strangers)
        else:
            for key, item in strangers.items():
                self._refuse(item, _unknown_in(kind, key))
            self._named(kind, given.value)
        if len(self.problems) > before:
            return None
        try:
            return kind(**values)
        except SectionError as error:
            for name, message in error.problems:
                place = f"{kind.section}.{name}"
                self._refuse(self.places[place], f"{place}: {message}")
            return None

    def _fields(self, kind: type[Section], given: Mapping[str, Given]) -> dict[str, Any]:
        """Values of a section's own fields, where they were given."""
        values = {}
        kinds = kinds_of(kind)
        for item in fields(kind):
            if item.name == OPTIONS or item.name in SECTIONS:
                continue
            place = f"{kind.section}.{item.name}".lstrip(".")
            self.places[place] = given.get(item.name, NOT_GIVEN)
            if item.name not in given:
                continue
            try:
                values[item.name] = convert(given[item.name], kinds[item.name])
                problem = out_of_range(values[item.name], item.metadata["range"])
            except Mismatch as mismatch:
                problem = str(mismatch)
            if problem:
                self._refuse(given[item.name], f"{place}: {problem}")
        return values

    def _named(self, kind: type[Section], given: Mapping[str, Given]) -> Given | None:
        """The name that a section chooses, where there is a table that knows it."""
        if kind.section not in self.tables:
            return None
        name = given.get("name") or replace(NOT_GIVEN, value=_default_name(kind))
        try:
            text = convert(name, str)
            # Looked up for the refusal of unknown names.
            self.tables[kind.section][text]
        except Mismatch:
            # Refused already, as a field.
            return None
        except UsageError as error:
            self._refuse(name, str(error))
            return None
        return replace(name, value=text)

    def _options(self, kind: type[Section], given: Mapping[str, Given], options: Mapping[str, Given]) -> dict[str, Any]:
        name = self._named(kind, given)
        if name is None:
            self.places |= {f"{kind.section}.{key}": item for key, item in options.items()}
            return {key: item.plain() for key, item in options.items()}
        check = OptionCheck(kind, self.tables[kind.section], name)
        values = {}
        for key, item in options.items():
            if check.is_taken_back(key, item):
                continue
            try:
                values[key] = check.value(key, item)
            except Mismatch as mismatch:
                self._refuse(item, str(mismatch))
            self.places[f"{kind.section}.{key}"] = item
        for key in check.missing(options):
            self._refuse(name, f"{kind.section} {name.value!r} needs the option {kind.section}.{key}")
        return values

    def _notes(self, recipe: Recipe) -> Iterator[str]:
        """Remarks on values that someone gave and that are not the defaults."""
        for section in (*(getattr(recipe, name) for name in SECTIONS), recipe):
            for name, message in section.remarks():
                place = f"{section.section}.{name}".lstrip(".")
                given = self.places[place]
                if not given.is_default and not _has_default(recipe, place):
                    yield f"{given.source}: {place} {message}"


def _default_name(kind: type[Section]) -> str:
    return str(kind.__dataclass_fields__["name"].default)


def _has_default(recipe: Recipe, place: str) -> bool:
    section, _, name = place.partition(".")
    return bool(getattr(getattr(recipe, section), name) == getattr(SECTIONS[section](), name))


def _unknown_in(kind: type[Section], key: str) -> str:
    """Message for a key that a section does not have; names the section that does have it."""
    where = f"in section {kind.section!r}" if kind.section else "of a recipe"
    homes = [f"{name}.{key}" for name, section in SECTIONS.items() if key in own_fields(section)]
    if homes and kind is Recipe:
        return f"unknown key {key!r} {where}: did you mean {' or '.join(homes)}? known: {', '.join(kinds_of(Recipe))}"
    return unknown_key(key, where, own_fields(kind))
