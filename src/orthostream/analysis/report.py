"""One HTML page about a set of runs, complete in itself: no script, no request to anywhere.

Names of groups, classes and folders may be hostile: the template escapes everything, and the page forbids the browser
whatever it does not contain.
"""

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from orthostream.analysis import plots
from orthostream.analysis.compare import Comparison
from orthostream.analysis.gallery import Picture, gallery
from orthostream.analysis.runs import Run, decisive_fields
from orthostream.analysis.theme import DARK, LIGHT, Theme
from orthostream.errors import needs_extra

with needs_extra("report"):
    from jinja2 import Environment, StrictUndefined

TEMPLATE = "report.html.j2"

# Fields of the recipe that the list of software and hardware begins with; the whole recipes stand below it.
TOLD_FIELDS = (
    "model.name",
    "connection.name",
    "data.name",
    "train.epochs",
    "train.batch_size",
    "optimizer.name",
    "optimizer.lr",
)


@dataclass(frozen=True)
class Drawn:
    """A figure inside the page, on light and on dark paper."""

    light: str
    dark: str
    text: str


@dataclass(frozen=True)
class Fact:
    """A line of the list of what was run: a name, and all values that the runs have."""

    name: str
    value: str


def render(comparison: Comparison, *, title: str, commands: Sequence[str] = ()) -> str:
    """The page as a string.

    Args:
        comparison: the runs, finished or not; what is missing is named at the top.
        title: of the page.
        commands: shell lines that made the runs; the page adds one line a run that makes it again from its recipe.
    """
    source = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shown = gallery(comparison)
    return environment.from_string(source).render(
        title=title,
        comparison=comparison,
        measures=comparison.measures,
        headline=comparison.measures[0] if comparison.measures else None,
        others=comparison.labels[1:],
        light=LIGHT,
        dark=DARK,
        curves=[_drawn(picture) for picture in shown.curves],
        profiles=[_drawn(picture) for picture in shown.profiles],
        histories=[_drawn(picture) for picture in shown.histories],
        descriptions=_descriptions(comparison.runs),
        facts=_facts(comparison.runs),
        commands=list(commands),
        again=[_command(run) for run in comparison.runs],
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def write_report(path: Path, comparison: Comparison, *, title: str, commands: Sequence[str] = ()) -> Path:
    """Write the page to a file; arguments as for :func:`render`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder name that is no text (surrogates stand for its bytes) must not keep the page from being written.
    path.write_text(render(comparison, title=title, commands=commands), encoding="utf-8", errors="backslashreplace")
    return path


def _drawn(picture: Picture) -> Drawn:
    return Drawn(_data_uri(picture, LIGHT), _data_uri(picture, DARK), picture.text)


def _data_uri(picture: Picture, theme: Theme) -> str:
    return "data:image/png;base64," + base64.b64encode(plots.png(picture.draw(theme))).decode()


def _descriptions(runs: Sequence[Run]) -> list[str]:
    """What the recipes say they are, each once."""
    return list(dict.fromkeys(text for run in runs if (text := str(run.recipe.get("description") or ""))))


def _facts(runs: Sequence[Run]) -> list[Fact]:
    """What was trained on what; where runs differ, all their values."""
    described = [
        {"seed": run.seed}
        | {name: value for name, value in decisive_fields(run.recipe).items() if name in TOLD_FIELDS}
        | {name.replace("_", " "): value for name, value in run.versions.items() if value is not None}
        for run in runs
    ]
    names = dict.fromkeys(name for found in described for name in found)
    return [
        Fact(name, ", ".join(dict.fromkeys(str(found[name]) for found in described if name in found))) for name in names
    ]


def _command(run: Run) -> str:
    """The line that makes a run again, into a new folder."""
    again = run.folder.with_name(run.folder.name + "-again")
    return f"orthostream train {shlex.quote(str(run.folder / 'recipe.yaml'))} --run-dir {shlex.quote(str(again))}"
