"""The overhead of orthogonal connections in training, beside the published one and the aim of this project.

Source of the published figures: Oh et al., Orthogonal Residual Updates, NeurIPS 2025, arXiv:2505.11881, as images a
second lost against the plain sum.
"""

from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.rows import Row


class Figures(NamedTuple):
    """In percent of images a second."""

    published: float
    aim: float


KNOWN = {
    "preact_resnet34": Figures(5.94, 1.5),
    "preact_resnet50": Figures(12.58, 3.0),
    "vit_s": Figures(0.28, 0.5),
    "vit_b": Figures(1.88, 0.5),
}


def overhead_table(rows: Iterable[Row]) -> str:
    """A line for each case of suite ``step``: the fastest orthogonal side against the fastest plain one."""
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        if row.suite == "step":
            by_case.setdefault(row.case, []).append(row)
    lines = [
        "| step | fastest sides | images/s lost [20 %, 80 %] | published | aim |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case, of_case in by_case.items():
        best = fastest(of_case)
        lost = " to ".join(f"{percent_lost(ratio):.2f}" for ratio in (best.ratio_20, best.ratio_80))
        figures = KNOWN.get(case.split()[0])
        known = f"{figures.published:.2f} % | {figures.aim:.1f} %" if figures else "- | -"
        lines.append(f"| {case} | {best.base}; {best.other} | {percent_lost(best.ratio):.2f} % [{lost}] | {known} |")
    return "\n".join(lines)


def fastest(rows: list[Row]) -> Row:
    """The row of the smallest times on both sides."""
    return min(rows, key=lambda row: (row.base_ms, row.other_ms))


def percent_lost(ratio: float) -> float:
    """Images a second that are lost where a step takes ``ratio`` times as long."""
    return 100 * (1 - 1 / ratio)
