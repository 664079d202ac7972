"""Figures drawn from saved rows: training curves, and what the updates did to the stream at each site.

Every function takes runs by group and returns a figure; :func:`png` turns it into bytes. Nothing global of the plotting
library is touched.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from orthostream.analysis.runs import Run
from orthostream.analysis.site_rows import LoggedSite, site_series
from orthostream.analysis.theme import DASHES, LIGHT, Theme, legend, page
from orthostream.errors import UsageError, needs_extra

with needs_extra("report"):
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

# Runs of one setting, one a seed, by the label of the setting.
Groups = Mapping[str, Sequence[Run]]
# Places along the horizontal axis, and the value at each.
Line = tuple[Sequence[float], Sequence[float]]

# Ratio of largest to smallest value from which an axis is logarithmic.
WIDE = 20.0
# Marks for the kinds of sites, and the letter that stands for each in the label of the axis.
MARKS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼"}


@dataclass(frozen=True)
class Quantity:
    """A value that runs record as they go.

    Args:
        key: of the row.
        title: of the figure.
        axis: what the vertical axis shows, with its unit.
        scale: what a stored value is multiplied by.
        by_epoch: whether it stands in the rows of each epoch, or in those of each log interval.
    """

    key: str
    title: str
    axis: str
    scale: float = 1.0
    by_epoch: bool = True

    def points(self, run: Run) -> Line:
        """Its values over epochs counted from 1, or over optimizer steps; what was not finite is a gap."""
        rows = [row for row in (run.epochs if self.by_epoch else run.train) if self.key in row]
        values = [np.nan if row[self.key] is None else self.scale * row[self.key] for row in rows]
        return [row["epoch"] + 1 if self.by_epoch else row["step"] for row in rows], values


@dataclass(frozen=True)
class Statistic:
    """A statistic of every site.

    Args:
        metric: its name in :mod:`orthostream.analysis.metrics`.
        title: of the figure.
        axis: what the vertical axis shows, with its unit.
    """

    metric: str
    title: str
    axis: str


CURVES = (
    Quantity("val/acc@1", "Validation accuracy", "top-1 accuracy (%)", 100.0),
    Quantity("val/bits_per_char", "Validation bits", "bits per character"),
    Quantity("val/loss", "Validation loss", "cross entropy (nats)"),
    Quantity("train/epoch_loss", "Training loss", "cross entropy (nats)"),
    Quantity("train/grad/global_norm", "Gradient before clipping", "global L2 norm", by_epoch=False),
)

STREAM_NORM = Statistic("x_norm2", "Norm of the stream", "|x|² (squared L2 norm)")
PARALLEL = Statistic("f_par_norm2", "Parallel part of the update", "|f∥|² (squared L2 norm)")
ORTHOGONAL = Statistic("f_ortho_norm2", "Orthogonal part of the update", "|f⊥|² (squared L2 norm)")
COSINE = Statistic("cos_x_out", "Direction of the update", "cosine of stream and update")
STATISTICS = (STREAM_NORM, PARALLEL, ORTHOGONAL, COSINE)


def curve(groups: Groups, quantity: Quantity, theme: Theme = LIGHT) -> Figure:
    """A quantity over training: per group the mean over its runs, and a band from the lowest run to the highest.

    A line has the epochs, or steps, that all runs of its group have.

    Raises:
        UsageError: where no run has the quantity.
    """
    figure, axes = page(theme, quantity.title, "epoch" if quantity.by_epoch else "optimizer step", quantity.axis)
    if not _draw(figure, axes, groups, theme, quantity.points):
        raise UsageError(f"no run holds {quantity.key!r}; there is no curve to draw")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.margins(x=0.01)
    return figure


def profile(groups: Groups, statistic: Statistic, theme: Theme = LIGHT) -> Figure:
    """A statistic at each site, from the first to the last, at the last sampled step.

    Per group the mean over its runs, and a band from the lowest run to the highest.

    Raises:
        UsageError: where no run holds statistics.
    """
    found = [series for runs in groups.values() for run in runs if (series := site_series(run, statistic.metric))]
    if not found:
        raise UsageError("no run holds statistics of its stream; train with statistics.interval=50 to record them")
    sites = max(found, key=lambda series: len(series.sites)).sites
    marks = dict(zip(dict.fromkeys(site.kind for site in sites), cycle(MARKS), strict=False))
    kinds = ", ".join(f"{MARKS[mark]} {kind}" for kind, mark in marks.items())
    figure, axes = page(theme, f"{statistic.title}, end of training", f"block ({kinds})", statistic.axis)
    for line in _draw(figure, axes, groups, theme, lambda run: _over_sites(run, statistic.metric)):
        for place, value in zip(*line.get_data(), strict=True):
            mark = marks[sites[int(place)].kind]
            axes.plot(place, value, mark, color=line.get_color(), markersize=4.5, zorder=4)
    _tick_blocks(axes, sites)
    _set_scale(axes, *axes.dataLim.intervaly)
    return figure


def history(
    label: str,
    runs: Sequence[Run],
    statistic: Statistic,
    theme: Theme = LIGHT,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A statistic over training, one line a site coloured by its depth: the mean over the runs of one group.

    Args:
        label: of the group, for the title.
        runs: of the group, one a seed.
        statistic: which.
        theme: colours.
        limits: lowest and highest value of the axis, so that groups lie side by side; see :func:`extent`.

    Raises:
        UsageError: where no run holds statistics.
    """
    steps, values, sites = _mean_history(runs, statistic.metric)
    if not steps:
        raise UsageError("no run holds statistics of its stream; train with statistics.interval=50 to record them")
    figure, axes = page(theme, f"{statistic.title} over training, {label}", "optimizer step", statistic.axis)
    blocks = max(site.block for site in sites)
    shades = colormaps[theme.depth](np.linspace(*theme.depth_range, blocks + 1))
    styles = dict(zip(dict.fromkeys(site.kind for site in sites), cycle(DASHES), strict=False))
    for site, line in zip(sites, values.T, strict=True):
        axes.plot(steps, line, color=shades[site.block], linestyle=styles[site.kind], linewidth=1.3)
    _set_scale(axes, *(limits or axes.dataLim.intervaly))
    axes.margins(x=0.01)
    if len(styles) > 1:
        samples = [axes.plot([], [], color=theme.ink, linestyle=style, linewidth=1.3)[0] for style in styles.values()]
        legend(figure, theme, samples, list(styles))
    _depth_bar(figure, axes, theme, shades)
    return figure


def extent(groups: Groups, statistic: Statistic) -> tuple[float, float] | None:
    """Lowest and highest value in the histories of all groups; None where there is none."""
    histories = [_mean_history(runs, statistic.metric)[1] for runs in groups.values()]
    finite = np.concatenate([np.empty(0), *(values[np.isfinite(values)] for values in histories)])
    return (float(finite.min()), float(finite.max())) if finite.size else None


def png(figure: Figure) -> bytes:
    """The figure as a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(figure: Figure, axes: Axes, groups: Groups, theme: Theme, read: Callable[[Run], Line]) -> list[Any]:
    """One line and band a group, and the legend; returns the lines."""
    lines: list[Any] = []
    labels: list[str] = []
    colours = zip(groups.items(), cycle(theme.groups), cycle(DASHES), strict=False)
    for (label, runs), colour, dash in colours:
        read_lines = [dict(zip(*read(run), strict=True)) for run in runs]
        by_place = [line for line in read_lines if line]
        places = [place for place in (by_place[0] if by_place else {}) if all(place in line for line in by_place)]
        if not places:
            continue
        values = np.array([[line[place] for place in places] for line in by_place])
        mark = "o" if len(places) == 1 else None
        lines += axes.plot(places, values.mean(0), color=colour, linestyle=dash, marker=mark, linewidth=1.8, zorder=3)
        if len(values) > 1:
            axes.fill_between(places, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0, zorder=2)
        labels.append(_legend_label(label, runs, len(by_place)))
    if lines:
        legend(figure, theme, lines, labels)
    return lines


def _legend_label(label: str, runs: Sequence[Run], drawn: int) -> str:
    unfinished = sum(not run.is_finished for run in runs)
    return f"{label} (n = {drawn}{f', {unfinished} unfinished' if unfinished else ''})"


def _over_sites(run: Run, metric: str) -> Line:
    """Values at the last sampled step, by place in the model."""
    series = site_series(run, metric)
    return (range(len(series.sites)), series.values[-1]) if series is not None else ((), ())


def _mean_history(runs: Sequence[Run], metric: str) -> tuple[list[int], Any, Sequence[LoggedSite]]:
    """Steps that all runs sampled, the mean over runs ``[step, site]``, and the sites."""
    found = [series for run in runs if (series := site_series(run, metric)) is not None]
    if not found:
        return [], np.empty((0, 0)), []
    by_step = [dict(zip(series.steps, series.values, strict=True)) for series in found]
    steps = [step for step in found[0].steps if all(step in rows for rows in by_step)]
    values = np.array([[rows[step] for step in steps] for rows in by_step])
    return steps, values.mean(0), found[0].sites


def _tick_blocks(axes: Axes, sites: Sequence[LoggedSite]) -> None:
    """A tick at the first site of each block, as many as there is room for."""
    first = {site.block: place for place, site in reversed(list(enumerate(sites)))}
    blocks = sorted(first)
    shown = blocks[:: -(-len(blocks) // 12)]
    axes.set_xticks([first[block] for block in shown], [str(block) for block in shown])


def _set_scale(axes: Axes, low: float, high: float) -> None:
    """Limits with a margin; logarithmic where positive values span more than a factor of ``WIDE``."""
    if not low <= high < np.inf:
        # No value was finite: there is nothing to fit.
        return
    if low > 0 and high > WIDE * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.06 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)


def _depth_bar(figure: Figure, axes: Axes, theme: Theme, shades: Any) -> None:
    """The key to the colours: block 0 to the last."""
    scale = ScalarMappable(Normalize(-0.5, len(shades) - 0.5), ListedColormap(shades))
    bar = figure.colorbar(scale, ax=axes, pad=0.02, aspect=28)
    bar.set_label("block", color=theme.ink, fontsize=9)
    bar.ax.tick_params(colors=theme.ink, labelsize=8.5, length=0)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    bar.ax.yaxis.set_minor_locator(MaxNLocator(1))
    bar.outline.set_visible(False)
