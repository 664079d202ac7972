"""Where recipes are: a path, or the name of one that comes with the library."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from orthostream.errors import UsageError, unknown
from orthostream.recipe.yaml_nodes import parse

YAML = (".yaml", ".yml")
SUFFIXES = (*YAML, ".py")


def packaged_folder() -> Path:
    """The folder of the recipes that come with the library: inside an installed package, or of a checkout."""
    installed = Path(str(resources.files("orthostream"))) / "recipes"
    if installed.is_dir():
        return installed
    return Path(__file__).resolve().parents[3] / "recipes"


def names() -> dict[str, str]:
    """Recipes that come with the library: from name to the first line of the description."""
    return {path.stem: _first_line(path) for path in sorted(packaged_folder().glob("*.yaml"))}


def find(name: str | Path) -> Path:
    """The file of a recipe.

    Args:
        name: a path that ends in .yaml, .yml or .py, or the name of a packaged recipe, with or without .yaml.

    Raises:
        UsageError: where there is none; the message names the nearest ones and what was tried.
    """
    path = Path(name)
    if path.is_file() and path.suffix in SUFFIXES:
        return path
    if path.is_file():
        raise UsageError(f"{path}: a recipe is a .yaml or a .py file")
    known = [found.stem for found in packaged_folder().glob("*.yaml")]
    stem = path.stem if path.suffix in YAML else path.name
    if stem in known and str(path.parent) == ".":
        return packaged_folder() / f"{stem}.yaml"
    raise UsageError(_missing(path, stem, known))


def _missing(path: Path, stem: str, known: Iterable[str]) -> str:
    if path.suffix not in SUFFIXES and str(path.parent) == ".":
        return f"{unknown('recipe', stem, known)}; or give the path of a .yaml or .py file"
    advice = f"; the library brings one of that name, given as {stem!r}" if stem in known else ""
    return f"there is no recipe at {path.absolute()}{advice}"


def origin_of(path: Path) -> str:
    """The file as messages name it: a packaged recipe by its place in the repository."""
    if path.parent == packaged_folder():
        return f"recipes/{path.name}"
    return str(path)


def _first_line(path: Path) -> str:
    given = parse(path.read_bytes(), origin_of(path))
    description = given.value.get("description") if given.is_mapping else None
    return str(description.value).strip().partition("\n")[0] if description else ""
