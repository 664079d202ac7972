"""Run the cells of a published table and print the paper's numbers and these side by side.

Each cell is a shipped recipe with a few fields changed, in several seeds. What is finished is not run again, what was
interrupted goes on, and runs that stand in several tables are made once. Numbers are of the last epoch on the test
split; ± is the standard error of the mean.

tables: table1 to table7, figure11 (batch sizes) and imagenet, of arXiv:2202.07052

example:
  orthostream reproduce table1 --only basic_cnn --seeds 5 --jobs 2 data.source=cifar10/
  orthostream reproduce table1 --dry-run
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from orthostream import experiments, recipe
from orthostream.analysis.compare import last_epoch
from orthostream.analysis.runs import Run, read_run
from orthostream.analysis.student_t import deviation, mean
from orthostream.analysis.text_table import aligned
from orthostream.cli.sweep import Cell, log_of, run_cells
from orthostream.cli.train import load_recipe
from orthostream.errors import UsageError
from orthostream.experiments import Experiment, Published, Setting
from orthostream.recipe import Resolved

# Fields that a finished run may have otherwise: where it ran and reported, not what it computed.
INCIDENTAL = ("description", "data.source", "data.workers", "train.device", "train.timeout", "log.", "checkpoint.")
DIVERGED, NOT_RUN = "diverged", "not run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``orthostream reproduce``."""
    parser.add_argument("table", metavar="TABLE", help=f"one of {', '.join(experiments.table.names())}")
    parser.add_argument(
        "overrides", metavar="field=value", nargs="*", help="for all runs, such as data.source=cifar10/"
    )
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="a row, a column, or row/column; may be given more than once"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each cell, counted up from the recipe's seed")
    parser.add_argument("--epochs", type=int, help="length of each run, where the paper's is too long")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share the cores")
    parser.add_argument("--out", type=Path, help="folder of all runs; default runs/orthogonal-gradients[-<N>-epochs]")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and what is there, and train nothing")


def run(options: argparse.Namespace) -> int:
    """Carry out ``orthostream reproduce``; code 1 where a run failed."""
    experiment = experiments.table.create(options.table)
    plans = plan(options, experiment)
    refuse_other_runs(plans)
    failed: list[Cell] = []
    if options.dry_run:
        print("\n".join(shown_run(each) for each in plans))
    else:
        failed = run_cells([each.cell for each in plans], options.jobs, lambda message: print(message, flush=True))
    outcomes = [outcome_of(each, has_failed=each.cell in failed) for each in plans]
    text = report(experiment, plans, outcomes, shared_overrides(options))
    print(f"\n{text}")
    if not options.dry_run:
        (out_folder(options) / f"{options.table}.txt").write_text(text + "\n", encoding="utf-8")
    return 0 if options.dry_run or all(outcome.run is not None for outcome in outcomes) else 1


@dataclass(frozen=True)
class Planned:
    """One run: its cell of the published table, its place in the sweep, and its recipe."""

    setting: Setting
    cell: Cell
    resolved: Resolved


@dataclass(frozen=True)
class Outcome:
    """What became of a run: the finished run, or why there is none."""

    run: Run | None
    reason: str = ""


def plan(options: argparse.Namespace, experiment: Experiment) -> list[Planned]:
    """All runs of the table, each recipe checked before the first one starts.

    Raises:
        UsageError: for numbers below one, a name that is no row or column, or a recipe that cannot be trained.
    """
    for name in ("seeds", "jobs", "epochs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} counts from 1, got {value}")
    shared = shared_overrides(options)
    seeds = [override for override in options.overrides if override.startswith("seed=")]
    refuse_varied(experiment, shared)
    out, plans = out_folder(options), []
    for setting in chosen(experiment, options.only or []):
        overrides = merged(experiment, setting, shared)
        first = load_recipe(setting.recipe, [*overrides, *seeds]).recipe.seed
        for seed in range(first, first + options.seeds):
            words = [*overrides, f"seed={seed}"]
            cell = Cell(
                f"{setting.row} {setting.column}", seed, out / f"{setting.key}-seed{seed}", (setting.recipe, *words)
            )
            plans.append(Planned(setting, cell, load_recipe(setting.recipe, words)))
    return plans


def merged(experiment: Experiment, setting: Setting, shared: list[str]) -> list[str]:
    """The overrides of a cell's runs. What some cells set themselves, the caller changes in those cells alone."""
    own = {field_of(override) for override in setting.overrides}
    given = {field_of(override) for each in experiment.settings for override in each.overrides}
    replaced = {field_of(override) for override in shared}
    kept = [override for override in setting.overrides if field_of(override) not in replaced]
    return kept + [override for override in shared if field_of(override) in own or field_of(override) not in given]


def refuse_varied(experiment: Experiment, shared: list[str]) -> None:
    """What distinguishes the cells of a table cannot be one value for all.

    Raises:
        UsageError: naming the field and its values.
    """
    for override in shared:
        field = field_of(override)
        values = dict.fromkeys(each for s in experiment.settings for each in s.overrides if field_of(each) == field)
        if len(values) > 1:
            raise UsageError(
                f"{override} would make cells equal that the table compares: {', '.join(values)}; choose cells with "
                "--only, or train a recipe by itself with orthostream train"
            )


def field_of(override: str) -> str:
    """The field of ``field=value``; a model may be named as ``model`` or ``model.name``."""
    return override.partition("=")[0].removesuffix(".name")


def shared_overrides(options: argparse.Namespace) -> list[str]:
    """What the caller changes in all runs; a seed is where counting begins."""
    length = [] if options.epochs is None else [f"train.epochs={options.epochs}"]
    return [override for override in options.overrides if not override.startswith("seed=")] + length


def out_folder(options: argparse.Namespace) -> Path:
    """Where the runs are; another length of training has a folder of its own."""
    name = "orthogonal-gradients" + ("" if options.epochs is None else f"-{options.epochs}-epochs")
    return options.out or Path("runs") / name


def chosen(experiment: Experiment, only: list[str]) -> list[Setting]:
    """The settings that ``--only`` names; all of them where it names none.

    Raises:
        UsageError: for a name that fits no cell.
    """
    names = {
        setting: {setting.row, setting.column, f"{setting.row}/{setting.column}"} for setting in experiment.settings
    }
    for name in only:
        if not any(name in known for known in names.values()):
            rows = ", ".join(dict.fromkeys(setting.row for setting in experiment.settings))
            columns = ", ".join(dict.fromkeys(setting.column for setting in experiment.settings))
            raise UsageError(f"--only {name!r} is no cell; rows: {rows}; columns: {columns}; or give row/column")
    return [setting for setting, known in names.items() if not only or known & set(only)]


def refuse_other_runs(plans: list[Planned]) -> None:
    """A run of another recipe must not stand in the table, nor be gone on with.

    Raises:
        UsageError: with the differences.
    """
    for each in plans:
        path = each.cell.folder / "recipe.yaml"
        if not path.is_file():
            continue
        differences = recipe.differences(recipe.load(path).recipe, each.resolved.recipe)
        decisive = [line for line in differences if not line.startswith(INCIDENTAL)]
        if decisive:
            listed = "\n  ".join(decisive)
            raise UsageError(
                f"{each.cell.folder} holds a run of another recipe:\n  {listed}\ngive another folder with --out, or "
                "the values that it was begun with"
            )


def shown_run(each: Planned) -> str:
    """The command of a run, and how far it is."""
    state = "finished" if each.cell.is_finished else "begun" if each.cell.folder.exists() else NOT_RUN
    return f"{state:<9} orthostream train {' '.join(each.cell.arguments)} --run-dir {each.cell.folder}"


def outcome_of(each: Planned, *, has_failed: bool) -> Outcome:
    """The finished run of a cell, or why there is none, as its log says.

    Args:
        each: the run.
        has_failed: whether it was started now and ended with an error.
    """
    if each.cell.is_finished:
        return Outcome(read_run(each.cell.folder, each.cell.label))
    log = log_of(each.cell)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    last = max((place for place, line in enumerate(lines) if line.startswith("error:")), default=None)
    # A later start of the same run may have gone well so far; its output follows the error.
    if last is not None and not any(line.startswith(("note:", "step", "resumed")) for line in lines[last:]):
        return Outcome(None, DIVERGED if "is not finite" in lines[last] else f"failed: {lines[last]}")
    if has_failed:
        return Outcome(None, f"failed: {lines[-1] if lines else 'without output'}, see {log}")
    return Outcome(None, "stopped" if each.cell.folder.exists() else NOT_RUN)


def report(experiment: Experiment, plans: list[Planned], outcomes: list[Outcome], changed: list[str]) -> str:
    """The table: the paper's numbers and these, cell by cell, then what differs and what is missing."""
    by_setting: dict[str, list[tuple[Planned, Outcome]]] = {}
    for each, outcome in zip(plans, outcomes, strict=True):
        by_setting.setdefault(f"{each.setting.row}/{each.setting.column}", []).append((each, outcome))
    rows = []
    for members in by_setting.values():
        setting = members[0][0].setting
        runs = [outcome.run for _, outcome in members if outcome.run is not None]
        why = ", ".join(dict.fromkeys(outcome.reason.partition(":")[0] for _, outcome in members if outcome.reason))
        accuracies, losses = (values_of(runs, key) for key in ("val/acc@1", "val/loss"))
        rows.append(
            [
                setting.row,
                setting.column,
                printed(setting.accuracy, 2),
                found([100 * value for value in accuracies], 2, why),
                printed(setting.loss, 4),
                found(losses, 4, why),
                f"{len(runs)} of {len(members)}",
            ]
        )
    header = ["row", "column", "top-1 % paper", "here", "loss paper", "here", "runs"]
    parts = [experiment.title, aligned(header, rows, "llrrrrr"), *filter(None, [experiment.note])]
    lengths = sorted({each.resolved.recipe.train.epochs for each in plans})
    # Read without the tables: the paper's data set may not be here.
    published = sorted({recipe.load(e.setting.recipe, [*e.setting.overrides]).recipe.train.epochs for e in plans})
    if lengths != published:
        parts.append(f"Epochs: paper {', '.join(map(str, published))}; here {', '.join(map(str, lengths))}.")
    decisive = [override for override in changed if not override.startswith(INCIDENTAL)]
    if decisive:
        parts.append(f"Changed in all runs here: {' '.join(decisive)}")
    absent = [(each, outcome.reason) for each, outcome in zip(plans, outcomes, strict=True) if outcome.run is None]
    untouched = sum(reason == NOT_RUN for _, reason in absent)
    if untouched:
        parts.append(f"{untouched} of {len(plans)} runs are not run yet.")
    parts += [f"{each.cell.label} seed {each.cell.seed}: {why}" for each, why in absent if why != NOT_RUN]
    return "\n\n".join(parts)


def values_of(runs: list[Run], key: str) -> list[float]:
    """A value at the last epoch of each run that has it."""
    read = last_epoch(key)
    return [value for each in runs if (value := read(each)) is not None]


def printed(published: Published | None, digits: int) -> str:
    """A published number."""
    if published is None:
        return "-"
    if math.isnan(published.mean):
        return DIVERGED
    error = "" if published.error is None else f" ± {published.error:.{digits}f}"
    return f"{published.mean:.{digits}f}{error}"


def found(values: list[float], digits: int, why: str) -> str:
    """Mean and standard error of what was found here, or why there is nothing."""
    average, spread = mean(values), deviation(values)
    if average is None:
        return why or "-"
    error = "" if spread is None else f" ± {spread / math.sqrt(len(values)):.{digits}f}"
    return f"{average:.{digits}f}{error}"
