"""Train a classifier or a language model from a recipe into a run folder.

example:
  orthostream train vit_s_cifar10 connection=orthogonal data.source=cifar10/ --run-dir runs/vit_s
  orthostream train runs/vit_s/recipe.yaml --run-dir runs/vit_s --resume
  torchrun --nproc-per-node 2 -m orthostream.cli train vit_s_cifar10 --run-dir runs/vit_s
"""

import argparse
from pathlib import Path

from orthostream import build, recipe
from orthostream.cli.plan import show_plan
from orthostream.cli.running import run_recipe
from orthostream.recipe import Resolved

RECIPE_HELP = "path of a recipe (YAML; a .py file is run as code), or the name of one that ships with the library"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``orthostream train``."""
    parser.add_argument("recipe", metavar="RECIPE", help=RECIPE_HELP)
    parser.add_argument(
        "overrides", metavar="field=value", nargs="*", help="such as optimizer.lr=1e-3 or connection=linear"
    )
    parser.add_argument("--run-dir", type=Path, help="folder of the run; default runs/<recipe>-seed<seed>")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    parser.add_argument("--overwrite", action="store_true", help="delete the run in the folder first")
    parser.add_argument(
        "--allow-change",
        metavar="FIELD",
        action="append",
        default=[],
        help="with --resume: a dotted field in which the recipe may differ from that of the run",
    )
    parser.add_argument("--plan", action="store_true", help="say what the run would do, and do not train")
    parser.add_argument("--plan-image", type=Path, help="with --plan: where the first augmented images go (PNG)")


def load_recipe(path: str, overrides: list[str]) -> Resolved:
    """Load a recipe and check it against the models, connections and data sets that there are.

    Raises:
        UsageError: for values that are wrong by themselves, or sections that do not fit each other.
    """
    resolved = recipe.load(path, overrides, tables=build.TABLES)
    build.check_fit(resolved.recipe)
    return resolved


def run(options: argparse.Namespace) -> int:
    """Carry out ``orthostream train``."""
    resolved = load_recipe(options.recipe, options.overrides)
    name = Path(options.recipe).stem
    if options.plan:
        show_plan(resolved, options.plan_image or Path(f"{name}-plan.png"))
        return 0
    return run_recipe(
        resolved,
        run_dir=options.run_dir or Path("runs") / f"{name}-seed{resolved.recipe.seed}",
        resume=options.resume,
        overwrite=options.overwrite,
        allow_change=options.allow_change,
    )
