"""What an experiment of a paper is: settings, each with the recipe that makes its runs and the published numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A number as a paper prints it.

    Args:
        mean: over the paper's runs; NaN where they diverged.
        error: standard error of the mean; None where none is printed.
    """

    mean: float
    error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One cell of a table.

    Args:
        row: as the table names it, such as a network.
        column: likewise, such as an optimizer.
        key: name of its run folders, the same wherever the same runs stand in another table too.
        recipe: shipped recipe of its runs.
        overrides: ``field=value`` over the recipe.
        accuracy: published test top-1 at the last epoch, in percent; None where none is printed.
        loss: published test loss at the last epoch, in nats; None likewise.
    """

    row: str
    column: str
    key: str
    recipe: str
    overrides: tuple[str, ...]
    accuracy: Published | None = None
    loss: Published | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table of a paper.

    Args:
        title: what it is, with its source.
        settings: its cells, in order.
        note: what a reader must know to compare.
    """

    title: str
    settings: tuple[Setting, ...]
    note: str = ""
