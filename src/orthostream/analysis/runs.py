"""Runs read back from their folders, and sorted by what distinguishes them."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from orthostream.errors import UsageError, needs_extra

with needs_extra("vision"):
    import yaml

# One line of metrics.jsonl: kind, step, epoch, and a number or None (not finite) by key.
Row: TypeAlias = dict[str, Any]

# Fields of a recipe that change where a run reports and how fast, not what it computes.
BOOKKEEPING = ("description", "seed", "log", "checkpoint")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run as it stands in its folder.

    Args:
        folder: where it was read.
        label: the group it belongs to in tables and figures.
        recipe: the resolved recipe.
        recipe_text: the same as it was written, with the origin of each value.
        versions: software and hardware.
        train: rows of kind "train"; losses are means over the log interval.
        epochs: rows of kind "epoch"; accuracies are fractions in [0, 1], ``epoch`` counts from 0.
        statistics: rows of kind "statistics", with the keys of :func:`orthostream.analysis.log_keys.as_log`.
        result: content of ``result.json``; None where the run is not finished.
        notes: what was odd and harmless, such as a last line that a kill cut off.
    """

    folder: Path
    label: str
    recipe: Mapping[str, Any]
    recipe_text: str
    versions: Mapping[str, Any]
    train: Sequence[Row] = ()
    epochs: Sequence[Row] = ()
    statistics: Sequence[Row] = ()
    result: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return self.result is not None and bool(self.result.get("finished"))

    @property
    def seed(self) -> int:
        """The seed that its recipe names."""
        return int(self.recipe["seed"])


@dataclass(frozen=True)
class Runs:
    """What was found in a set of folders.

    Args:
        read: the runs.
        unreadable: why a folder could not be read, by folder.
    """

    read: list[Run] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)


def read_run(folder: Path | str, label: str | None = None) -> Run:
    """Read one run.

    Args:
        folder: holds ``metrics.jsonl``, ``recipe.yaml``, ``versions.json`` and, once finished, ``result.json``.
        label: the group it belongs to; left out, the name of its connection.

    Raises:
        UsageError: where a file is missing or damaged. Only the last line of ``metrics.jsonl`` may be cut off, as a
            kill leaves it; that is noted.
    """
    folder = Path(folder)
    recipe_text = _text(folder / "recipe.yaml")
    try:
        recipe = yaml.safe_load(recipe_text)
    except yaml.YAMLError as error:
        raise UsageError(f"{folder / 'recipe.yaml'} is not YAML: {error}; the run cannot be reported") from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("seed"), int):
        raise UsageError(
            f"{folder / 'recipe.yaml'} is no resolved recipe: a mapping with an integer 'seed' is expected"
        )
    rows, notes = _metrics(folder / "metrics.jsonl")
    finished = folder / "result.json"
    return Run(
        folder=folder,
        label=label if label is not None else _connection_name(recipe),
        recipe=recipe,
        recipe_text=recipe_text,
        versions=_json_object(folder / "versions.json"),
        train=[row for row in rows if row["kind"] == "train"],
        epochs=[row for row in rows if row["kind"] == "epoch"],
        statistics=[row for row in rows if row["kind"] == "statistics"],
        result=_json_object(finished) if finished.exists() else None,
        notes=notes,
    )


def read_runs(folders: Iterable[Path | str]) -> Runs:
    """Read many runs; one that cannot be read is reported and does not hinder the others."""
    found = Runs()
    for folder in folders:
        try:
            found.read.append(read_run(folder))
        except UsageError as error:
            found.unreadable[Path(folder)] = str(error)
    return found


def find_runs(root: Path | str) -> list[Path]:
    """Folders of runs at or below a folder, in the order of their paths.

    Raises:
        UsageError: where there is none.
    """
    folders = []
    for path, below, files in os.walk(root):
        below.sort()
        if "recipe.yaml" in files or "metrics.jsonl" in files:
            folders.append(Path(path))
            below.clear()
    if not folders:
        raise UsageError(f"no run at or below {root}: a run folder holds recipe.yaml and metrics.jsonl")
    return folders


def grouped(runs: Iterable[Run]) -> dict[str, dict[int, Run]]:
    """Runs by label and seed, labelled by the fields in which their recipes differ.

    ``connection.name`` and other names stand as bare values (``orthogonal``), other fields as ``field=value``. Groups
    with the linear connection come first: the first group is what the others are compared with.

    Raises:
        UsageError: where two runs have the same recipe and seed.
    """
    runs = list(runs)
    flat = [decisive_fields(run.recipe) for run in runs]
    fields = list(dict.fromkeys(name for recipe in flat for name in recipe))
    differing = [name for name in fields if len({repr(recipe.get(name)) for recipe in flat}) > 1]
    groups: dict[str, dict[int, Run]] = {}
    for run, recipe in zip(runs, flat, strict=True):
        words = [_word(name, recipe[name]) for name in differing if name in recipe]
        label = " ".join(words) or _connection_name(run.recipe)
        cells = groups.setdefault(label, {})
        if run.seed in cells:
            raise UsageError(
                f"{cells[run.seed].folder} and {run.folder} are runs of the same recipe ({label}) and seed "
                f"{run.seed}; report one of them"
            )
        cells[run.seed] = replace(run, label=label)
    linear_first = sorted(
        groups, key=lambda label: _connection_name(next(iter(groups[label].values())).recipe) != "linear"
    )
    return {label: dict(sorted(groups[label].items())) for label in linear_first}


def decisive_fields(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of a recipe that decide what is computed, by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        if not prefix and name in BOOKKEEPING:
            continue
        if isinstance(value, Mapping):
            flat |= decisive_fields(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _metrics(path: Path) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    notes: list[str] = []
    lines = _text(path).split("\n")
    # A complete file ends with a line break, so what follows the last one is empty or was cut off by a kill.
    complete, rest = lines[:-1], lines[-1]
    for number, line in enumerate(complete, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}:{number}: not JSON ({error}); the file is damaged") from error
        if not (isinstance(row, dict) and isinstance(row.get("kind"), str) and isinstance(row.get("step"), int)):
            raise UsageError(f"{path}:{number}: expected an object with 'kind' and 'step', got {line[:80]}")
        rows.append(row)
    if rest:
        notes.append(f"the last line of {path.name} was cut off and is left out")
    return rows, notes


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; {path.parent} is no complete run folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is not JSON: {error}; the file is damaged") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds {type(found).__name__}, expected an object")
    return found


def _connection_name(recipe: Mapping[str, Any]) -> str:
    """The recipe's connection, which may stand as a bare name."""
    connection = recipe.get("connection", "linear")
    return str(connection.get("name", "linear")) if isinstance(connection, Mapping) else str(connection)


def _word(name: str, value: object) -> str:
    return str(value) if name.endswith(".name") else f"{name}={value}"
