"""Figures drawn from saved rows: training curves, and what the updates did to the stream at each site.

Every function takes runs by group and returns a figure; :func:`png` turns it into bytes. Nothing global of the plotting
library is touched.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orthostream.analysis.runs import Row, Run
from orthostream.analysis.site_rows import SiteSeries, site_series
from orthostream.analysis.theme import LIGHT, Theme, dashes, legend, page
from orthostream.errors import UsageError, needs_extra

with needs_extra("report"):
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

# Runs of one setting, one a seed, by the label of the setting.
Groups = Mapping[str, Sequence[Run]]

# Ratio of largest to smallest value from which an axis is logarithmic.
WIDE = 20.0
MARKS = ("o", "s", "D", "^", "v", "P")


@dataclass(frozen=True)
class Quantity:
    """A value of the rows of kind "epoch".

    Args:
        key: of the row.
        title: of the figure.
        axis: what the axis shows, with its unit.
        scale: what a stored value is multiplied by.
    """

    key: str
    title: str
    axis: str
    scale: float = 1.0


CURVES = (
    Quantity("train/epoch_loss", "Training loss", "cross entropy with augmentation (nats)"),
    Quantity("val/loss", "Validation loss", "cross entropy (nats)"),
    Quantity("val/acc@1", "Validation accuracy", "top-1 accuracy (%)", 100.0),
)


@dataclass(frozen=True)
class Statistic:
    """A statistic of every site; titles of its two figures, and what the axis shows."""

    metric: str
    title: str
    axis: str


STATISTICS = (
    Statistic("x_norm2", "Norm of the stream", "|x|², squared L2 norm entering the site"),
    Statistic("f_par_norm2", "Parallel part of the update", "|f∥|², squared L2 norm"),
    Statistic("f_ortho_norm2", "Orthogonal part of the update", "|f⊥|², squared L2 norm"),
    Statistic("cos_x_out", "Angle between stream and update", "cosine of stream and update"),
)


def curve(groups: Groups, quantity: Quantity, theme: Theme = LIGHT) -> Figure:
    """A quantity over epochs: per group the mean over its runs, and a band from the lowest run to the highest.

    A line ends at the last epoch that all runs of its group have.

    Raises:
        UsageError: where no run has the quantity.
    """
    figure, axes = page(theme, quantity.title, "epoch", quantity.axis)
    drawn = _draw_groups(axes, groups, theme, lambda run: _over_epochs(run, quantity))
    if not drawn:
        raise UsageError(f"no run holds {quantity.key!r} at two epochs or more; there is no curve to draw")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.margins(x=0.01)
    return figure


def profile(groups: Groups, statistic: Statistic, theme: Theme = LIGHT) -> Figure:
    """A statistic at each site, from the first to the last, at the end of training.

    Per group the mean over its runs, and a band from the lowest run to the highest.

    Raises:
        UsageError: where no run holds statistics.
    """
    series = {label: [s for run in runs if (s := site_series(run, statistic.metric))] for label, runs in groups.items()}
    longest = max((s for found in series.values() for s in found), key=lambda s: len(s.sites), default=None)
    if longest is None:
        raise UsageError("no run holds statistics of its stream; train with statistics.interval=50 to record them")
    kinds = list(dict.fromkeys(site.kind for site in longest.sites))
    marks = dict(zip(kinds, MARKS, strict=False))
    named = ", ".join(f"{_mark_name(mark)} {kind}" for kind, mark in marks.items())
    figure, axes = page(theme, f"{statistic.title}, end of training", f"block ({named})", statistic.axis)
    _draw_groups(axes, groups, theme, lambda run: _over_sites(run, statistic.metric), marks_at=longest, marks=marks)
    _block_ticks(axes, longest)
    _logarithmic_where_wide(axes)
    return figure


def history(
    label: str, runs: Sequence[Run], statistic: Statistic, theme: Theme = LIGHT, limits: tuple[float, float] | None = None
) -> Figure:
    """A statistic over training, one line a site coloured by its depth; the mean over the runs of one group.

    Args:
        label: of the group, for the title.
        runs: of the group, one a seed.
        statistic: which.
        theme: colours.
        limits: lowest and highest value of the axis, so that groups can be laid side by side; see :func:`extent`.

    Raises:
        UsageError: where no run holds statistics at two steps or more.
    """
    steps, sites, values = _mean_history(runs, statistic.metric)
    if len(steps) < 2:
        raise UsageError("no run holds statistics at two steps or more; there is no history to draw")
    figure, axes = page(theme, f"{statistic.title}: {label}", "optimizer step", statistic.axis)
    axes.title.set_parse_math(False)
    low, high = theme.depth_range
    colours = colormaps[theme.depth](np.linspace(low, high, max(2, len(sites.sites))))
    for place, (line, colour) in enumerate(zip(values.T, colours, strict=False)):
        axes.plot(steps, line, color=colour, linewidth=1.2, zorder=2 + place)
    if limits is not None:
        axes.set_ylim(*limits)
    _logarithmic_where_wide(axes, limits)
    axes.margins(x=0.01)
    last = sites.sites[-1].block
    scale = ScalarMappable(Normalize(0, max(1, last)), ListedColormap(list(colours)))
    bar = figure.colorbar(scale, ax=axes, pad=0.02, aspect=28)
    bar.set_label("block", color=theme.ink, fontsize=9)
    bar.ax.tick_params(colors=theme.ink, labelsize=8.5, color=theme.faint)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    bar.outline.set_visible(False)
    return figure


def extent(groups: Groups, statistic: Statistic) -> tuple[float, float] | None:
    """The limits that hold the histories of all groups; None where there is nothing to draw."""
    found = [values for runs in groups.values() for _, _, values in [_mean_history(runs, statistic.metric)] if values.size]
    finite = np.concatenate([values[np.isfinite(values)] for values in found]) if found else np.empty(0)
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    if low > 0 and high > WIDE * low:
        return low / 1.15, high * 1.15
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def png(figure: Figure) -> bytes:
    """The figure as a PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
