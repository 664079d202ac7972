"""Colours and letters of the figures, on light and on dark paper."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from orthostream.errors import needs_extra

with needs_extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Inches. Small, so that letters of 9 points can still be read where a phone shows the figure 360 pixels wide.
SIZE = (4.5, 2.95)
DOTS_PER_INCH = 200
# Letters that fit side by side in a title.
TITLE_WIDTH = 52
# The same for the smaller ones of a legend, whose entries also hold a sample of the line.
LEGEND_WIDTH = 68
# Inches that a line of a legend takes.
LEGEND_LINE = 0.18


@dataclass(frozen=True)
class Theme:
    """One set of colours.

    Args:
        paper: background.
        ink: letters.
        faint: axes and grid.
        groups: one colour a group, told apart with any common colour blindness (after Okabe and Ito).
        depth: name of the colour map from the first site to the last, without the end that the paper swallows.
        depth_range: part of that map which is used.
    """

    paper: str
    ink: str
    faint: str
    groups: tuple[str, ...]
    depth: str = "viridis"
    depth_range: tuple[float, float] = (0.0, 0.9)


LIGHT = Theme("#ffffff", "#1f2328", "#c8ccd1", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#4a4a4a"))
DARK = Theme(
    "#161b22",
    "#e6edf3",
    "#444c56",
    ("#56b4e9", "#f0913a", "#2fc79a", "#e59fc6", "#f0e442", "#b0b8c0"),
    depth_range=(0.2, 1.0),
)

# Beside its colour each group has its own dashes; six colours and five dashes make thirty different lines.
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))


def page(theme: Theme, title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, and nothing that says nothing."""
    figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH, facecolor=theme.paper)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.05)
    axes = figure.add_subplot(facecolor=theme.paper)
    # Titles hold names that users chose: long ones are broken, and a dollar sign in one is no mathematics.
    lines = textwrap.fill(title, TITLE_WIDTH)
    figure.suptitle(lines, x=0.02, ha="left", color=theme.ink, fontsize=10, fontweight="bold", parse_math=False)
    axes.set_xlabel(x_label, color=theme.ink, fontsize=9)
    axes.set_ylabel(y_label, color=theme.ink, fontsize=9)
    axes.tick_params(colors=theme.ink, labelsize=8.5, color=theme.faint)
    axes.grid(axis="y", color=theme.faint, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.faint)
    return figure, axes


def legend(figure: Figure, theme: Theme, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    """The names of the lines, below the axes where they hide nothing; taken literally, as titles are."""
    shown = [textwrap.shorten(label, TITLE_WIDTH, placeholder=" ...") for label in labels]
    columns = max(1, min(len(shown), LEGEND_WIDTH // (6 + max(len(label) for label in shown))))
    # Each further line of names makes the figure taller, and leaves the axes as they are.
    figure.set_figheight(SIZE[1] + LEGEND_LINE * -(-len(shown) // columns))
    box = figure.legend(
        handles,
        shown,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        labelcolor=theme.ink,
        fontsize=8.5,
        handlelength=2.6,
        borderaxespad=0.3,
    )
    for text, label in zip(box.get_texts(), shown, strict=True):
        text.set_parse_math(False)
        text.set_text(label)
