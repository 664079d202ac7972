"""Train one recipe in several settings and seeds; print one table; write one page and its figures.

Seeds are paired: each setting sees the same data order, augmentation and initial weights at the same seed.
What is finished is not run again, what was interrupted goes on.

example:
  orthostream compare demo --vary connection=linear,orthogonal --seeds 3 --jobs 2 --out demo
"""

import argparse
import itertools
import shlex
import sys
from pathlib import Path

from orthostream.analysis.compare import Comparison
from orthostream.analysis.gallery import save_figures
from orthostream.analysis.report import write_report
from orthostream.analysis.runs import Run, read_run
from orthostream.cli.sweep import Cell, log_of, run_cells
from orthostream.cli.train import RECIPE_HELP, load_recipe
from orthostream.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``orthostream compare``."""
    parser.add_argument("recipe", metavar="RECIPE", help=RECIPE_HELP)
    parser.add_argument("overrides", metavar="field=value", nargs="*", help="for all settings")
    parser.add_argument(
        "--vary",
        metavar="FIELD=A,B",
        action="append",
        required=True,
        help="the settings; given more than once, all combinations",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each setting, counted up from the recipe's seed")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share the cores")
    parser.add_argument("--out", type=Path, help="folder of all runs and of report.html; default runs/compare-<recipe>")


def run(options: argparse.Namespace) -> int:
    """Carry out ``orthostream compare``."""
    cells = plan_cells(options)
    failed = run_cells(cells, options.jobs, lambda message: print(message, flush=True))
    comparison = gathered(cells, failed)
    print(f"\n{comparison.table()}")
    page = cells[0].folder.parent / "report.html"
    title = f"{Path(options.recipe).stem}: {' against '.join(comparison.labels)}"
    write_report(page, comparison, title=title, commands=[shown_command()])
    save_figures(comparison, page.parent / "figures")
    print(f"\npage: {page}, figures: {page.parent / 'figures'}")
    return 1 if failed else 0


def plan_cells(options: argparse.Namespace) -> list[Cell]:
    """All runs of the comparison, each recipe checked before the first one starts.

    Raises:
        UsageError: for a setting that cannot be trained, or numbers below one.
    """
    if options.seeds < 1 or options.jobs < 1:
        raise UsageError(f"--seeds and --jobs count from 1, got {options.seeds} and {options.jobs}")
    name = Path(options.recipe).stem
    out = options.out or Path("runs") / f"compare-{name}"
    cells = []
    # A seed among the overrides is where counting begins.
    shared = [override for override in options.overrides if not override.startswith("seed=")]
    for combination in itertools.product(*map(settings_of, options.vary)):
        first = load_recipe(options.recipe, [*options.overrides, *combination]).recipe.seed
        label = " ".join(label_of(setting) for setting in combination)
        for seed in range(first, first + options.seeds):
            arguments = (*shared, *combination, f"seed={seed}")
            folder = out / f"{label.replace(' ', '-').replace('/', '-')}-seed{seed}"
            cells.append(Cell(label, seed, folder, (options.recipe, *arguments)))
    return cells


def settings_of(vary: str) -> list[str]:
    """``field=a,b`` as ``["field=a", "field=b"]``.

    Raises:
        UsageError: where it is not of that form.
    """
    field, _, values = vary.partition("=")
    if not field or not values:
        raise UsageError(f"--vary takes FIELD=A,B such as connection=linear,orthogonal, got {vary!r}")
    return [f"{field}={value}" for value in values.split(",")]


def label_of(setting: str) -> str:
    """The name of a setting in tables: a connection by its name alone, anything else as ``field=value``."""
    field, _, value = setting.partition("=")
    return value if field in ("connection", "connection.name", "model", "model.name") else setting


def gathered(cells: list[Cell], failed: list[Cell]) -> Comparison:
    """The comparison of all cells, with the failed ones named."""
    groups: dict[str, dict[int, Run]] = {}
    reasons: dict[tuple[str, int], str] = {}
    for cell in cells:
        try:
            groups.setdefault(cell.label, {})[cell.seed] = read_run(cell.folder, cell.label)
        except UsageError as error:
            reasons[cell.label, cell.seed] = str(error)
        if cell in failed:
            reasons[cell.label, cell.seed] = f"failed, see {log_of(cell)}"
    return Comparison(groups, failed=reasons)


def shown_command() -> str:
    """The command line that is running."""
    return shlex.join(["orthostream", *sys.argv[1:]])
