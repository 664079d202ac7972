"""Figures of the diagnostics of arXiv:2202.07052: similarity by layer, dead parameters over training.

Drawn from the rows that runs saved with ``statistics.diagnostics``; :func:`orthostream.analysis.plots.png` turns a
figure into bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import fmean

from orthostream.analysis.plots import Groups, Line, Quantity, curve
from orthostream.analysis.runs import Run
from orthostream.analysis.theme import DASHES, LIGHT, Theme, legend, page
from orthostream.errors import UsageError, needs_extra

with needs_extra("report"):
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

COUNTED = {
    "exact": "gradient of exactly 0",
    "rows": "components with a gradient of 0",
    "relative": "|g| ≤ 1e-4 of the largest",
    "absolute": "|g| ≤ 1e-4",
}


@dataclass(frozen=True)
class Sampled(Quantity):
    """A value in the rows of kind "statistics", over optimizer steps."""

    by_epoch: bool = False

    def points(self, run: Run) -> Line:
        rows = [row for row in run.statistics if row.get(self.key) is not None]
        return [row["step"] for row in rows], [self.scale * row[self.key] for row in rows]


def similarity(groups: Groups, theme: Theme = LIGHT) -> Figure:
    """Mean absolute cosine of distinct channel pairs at each layer, at the last sampled step.

    A group is a line: the mean over its runs, with a band from the lowest to the highest. The thin line is the
    significance threshold of each layer, ``4 / sqrt(pixels)``.

    Args:
        groups: runs by label.
        theme: colours.

    Raises:
        UsageError: where no run has sampled similarities.
    """
    figure, axes = page(theme, "Similarity of representations", "layer", "mean |cos| of channel pairs")
    handles, labels = [], []
    limits: list[float] = []
    for (label, runs), colour, dash in zip(groups.items(), cycle(theme.groups), cycle(DASHES), strict=False):
        found = [values for run in runs if (values := _by_layer(run, "mean"))]
        if not found:
            continue
        layers = range(len(found[0]))
        columns = [*zip(*found, strict=True)]
        handles += axes.plot(layers, [fmean(each) for each in columns], color=colour, linestyle=dash, linewidth=1.8)
        axes.fill_between(layers, [*map(min, columns)], [*map(max, columns)], color=colour, alpha=0.18, linewidth=0)
        labels.append(f"{label} (n = {len(found)})")
        limits = limits or next(filter(None, (_by_layer(run, "threshold") for run in runs)))
    if not handles:
        raise UsageError(
            "no run holds similarities of representations; train with statistics.interval=N statistics.diagnostics=true"
        )
    handles += axes.plot(range(len(limits)), limits, color=theme.ink, linewidth=0.8)
    labels.append("4/√N, N pixels")
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    legend(figure, theme, handles, labels)
    return figure


def dead_parameters(groups: Groups, count: str = "exact", theme: Theme = LIGHT) -> Figure:
    """Temporarily dead parameters of the whole model over training.

    Args:
        groups: runs by label.
        count: ``exact``, ``rows``, ``relative`` or ``absolute``, as in
            :class:`orthostream.analysis.dead_parameters.DeadParameters`.
        theme: colours.

    Raises:
        UsageError: for an unknown count, or where no run has counted.
    """
    if count not in COUNTED:
        raise UsageError(f"dead parameters are counted as one of {', '.join(COUNTED)}, got {count!r}")
    quantity = Sampled(f"dead/all/{count}", f"Temporarily dead parameters: {COUNTED[count]}", "parameters")
    return curve(groups, quantity, theme)


def has_diagnostics(runs: Sequence[Run]) -> bool:
    """Whether a run has sampled them."""
    return any(key.startswith("dead/") for run in runs for row in run.statistics[-1:] for key in row)


def _by_layer(run: Run, name: str) -> list[float]:
    """A value of each layer, in the order of the forward pass, at the last step that sampled it."""
    for row in reversed(run.statistics):
        values = [row[key] for key in row if key.startswith("similarity/") and key.endswith(f"/{name}")]
        if values and all(value is not None for value in values):
            return values
    return []
