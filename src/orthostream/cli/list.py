"""List what there is, one line each.

example:
  orthostream list connections
"""

import argparse
from collections.abc import Callable

from orthostream import build, connections, data, recipe

OPTIMIZERS = [
    ("sgd", "momentum, weight decay added to the gradient"),
    ("adam", "coupled (L2) weight decay, as in the paper"),
    ("adamw", "decoupled weight decay"),
    ("lars", "a rate for each layer, by the norms of weights and gradient (arXiv:1708.03888)"),
    ("optimizer.orthogonalize", "any of these on polar factors of the gradients (arXiv:2202.07052)"),
    ("optimizer.normalize", "any of these on normalised gradients (arXiv:2202.07052, section 3.1)"),
]


def connection_rows() -> list[tuple[str, str]]:
    return [(name, f"{entry.summary} ({entry.reference})") for name, entry in connections.table]


def model_rows() -> list[tuple[str, str]]:
    # Where the parts meet, models that need an extra have joined the table.
    return [(name, entry.summary) for name, entry in build.TABLES["model"]]


def data_rows() -> list[tuple[str, str]]:
    return [(name, entry.summary) for name, entry in data.table]


def recipe_rows() -> list[tuple[str, str]]:
    return [*recipe.names().items()]


KINDS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "connections": connection_rows,
    "models": model_rows,
    "recipes": recipe_rows,
    "datasets": data_rows,
    "optimizers": lambda: OPTIMIZERS,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``orthostream list``."""
    parser.add_argument("kind", choices=list(KINDS))


def run(options: argparse.Namespace) -> int:
    """Carry out ``orthostream list``."""
    rows = KINDS[options.kind]()
    width = max(len(name) for name, _ in rows)
    for name, summary in rows:
        print(f"{name:<{width}}  {summary}")
    return 0
