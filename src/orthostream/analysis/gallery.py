"""Which figures a comparison calls for: for pages, and as files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orthostream.analysis import diagnostic_plots, plots
from orthostream.analysis.compare import Comparison
from orthostream.analysis.plots import Groups
from orthostream.analysis.runs import Run
from orthostream.analysis.site_rows import site_series
from orthostream.analysis.theme import LIGHT, Theme
from orthostream.errors import needs_extra

with needs_extra("report"):
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """One figure.

    Args:
        name: of the file, without its ending.
        text: what it shows, for those who do not see it.
        draw: makes it in the colours of a theme.
    """

    name: str
    text: str
    draw: Callable[[Theme], Figure]


@dataclass(frozen=True)
class Gallery:
    """The figures of a comparison.

    Args:
        curves: accuracy and loss over training, and the diagnostics of runs that took them.
        profiles: stream and updates at each site at the end of training; empty where no run recorded them.
        histories: the norm of the stream over training, one figure a group; empty likewise.
    """

    curves: Sequence[Picture]
    profiles: Sequence[Picture]
    histories: Sequence[Picture]

    @property
    def all(self) -> list[Picture]:
        """Every figure."""
        return [*self.curves, *self.profiles, *self.histories]


def gallery(comparison: Comparison) -> Gallery:
    """All figures that the runs of a comparison have rows for."""
    groups = drawn_groups(comparison)
    runs = [run for members in groups.values() for run in members]
    curves = [
        Picture(
            quantity.key.replace("/", "_").replace("@", ""),
            f"{quantity.title} over training, mean and range over seeds of {', '.join(groups)}",
            partial(plots.curve, groups, quantity),
        )
        for quantity in plots.CURVES
        if any(quantity.points(run)[0] for run in runs)
    ]
    recorded = {label: [run for run in runs if run.statistics] for label, runs in groups.items()}
    recorded = {label: runs for label, runs in recorded.items() if runs}
    return Gallery([*curves, *_diagnostics(recorded)], _profiles(recorded), _histories(recorded))


def drawn_groups(comparison: Comparison) -> dict[str, list[Run]]:
    """The finished runs of each group; where none is finished, those under way."""
    groups = {
        label: list((comparison.finished(label) or comparison.groups[label]).values()) for label in comparison.labels
    }
    return {label: runs for label, runs in groups.items() if runs}


def save_figures(comparison: Comparison, folder: Path) -> list[Path]:
    """Write every figure of a comparison as a PNG on light paper.

    Args:
        comparison: the runs.
        folder: made where it does not exist.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for picture in gallery(comparison).all:
        files.append(folder / f"{picture.name}.png")
        files[-1].write_bytes(plots.png(picture.draw(LIGHT)))
    return files


def _diagnostics(recorded: Groups) -> list[Picture]:
    groups = {label: runs for label, runs in recorded.items() if diagnostic_plots.has_diagnostics(runs)}
    if not groups:
        return []
    similarity = Picture(
        "similarity_by_layer",
        f"Mean absolute cosine of channel pairs at each layer at the end of training, {', '.join(groups)}",
        partial(diagnostic_plots.similarity, groups),
    )
    dead = [
        Picture(
            f"dead_parameters_{count}",
            f"Temporarily dead parameters over training ({what}), {', '.join(groups)}",
            partial(diagnostic_plots.dead_parameters, groups, count),
        )
        for count, what in diagnostic_plots.COUNTED.items()
    ]
    return [similarity, *dead]


def _profiles(recorded: Groups) -> list[Picture]:
    return [
        Picture(
            f"{statistic.metric}_by_site",
            f"{statistic.title} at each site at the end of training, {', '.join(recorded)}",
            partial(plots.profile, recorded, statistic),
        )
        for statistic in plots.STATISTICS
        if any(site_series(run, statistic.metric) for runs in recorded.values() for run in runs)
    ]


def _histories(recorded: Groups) -> list[Picture]:
    norm = plots.STREAM_NORM
    limits = plots.extent(recorded, norm)
    return [
        Picture(
            f"{norm.metric}_over_training_{number}",
            f"{norm.title} at each site over training, {label}",
            partial(plots.history, label, runs, norm, limits=limits),
        )
        for number, (label, runs) in enumerate(recorded.items())
        if any(site_series(run, norm.metric) for run in runs)
    ]
