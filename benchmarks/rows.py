"""A row of results: two sides of one case, with the spread of their times and of their ratio."""

import csv
import dataclasses
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from orthostream import __version__
from orthostream.training.run_folder import versions

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
CONTEXT = ("date", "commit", "device", "threads", "torch", "triton")


@dataclass(frozen=True)
class Row:
    """What was found; None where it was not measured.

    ``ratio`` is the median of ratios of neighbouring turns, ``ratio_20`` and ``ratio_80`` are the 20 % and 80 %
    quantiles. ``gb_s`` counts the fewest bytes that must move. ``saved`` is what autograd keeps for backward,
    ``peak`` the most memory in use during a step.
    """

    suite: str
    case: str
    base: str
    other: str
    base_ms: float | None = None
    base_ms_20: float | None = None
    base_ms_80: float | None = None
    other_ms: float | None = None
    other_ms_20: float | None = None
    other_ms_80: float | None = None
    ratio: float | None = None
    ratio_20: float | None = None
    ratio_80: float | None = None
    rounds: int | None = None
    base_gb_s: float | None = None
    other_gb_s: float | None = None
    saved_mb_base: float | None = None
    saved_mb_other: float | None = None
    peak_mb_base: float | None = None
    peak_mb_other: float | None = None


COLUMNS = (*CONTEXT, *(field.name for field in dataclasses.fields(Row)))


class Spread(NamedTuple):
    """20 % quantile, median and 80 % quantile."""

    low: float
    middle: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Of two values or more; the quantiles lie among the values, however few there are."""
    low, _, _, high = statistics.quantiles(values, n=5, method="inclusive")
    return Spread(low, statistics.median(values), high)


def timed_row(
    suite: str,
    case: str,
    base: str,
    other: str,
    base_times: Sequence[float],
    other_times: Sequence[float],
    share: int = 1,
) -> Row:
    """A row of two sides that took turns.

    Args:
        suite: its name.
        case: its name.
        base: label of the side that the ratio divides by.
        other: label of the other side.
        base_times: seconds of one call, turn by turn.
        other_times: the same of the other side.
        share: the other side's extra work happens in 1 of so many calls, and counts by its share.
    """
    first, second = (spread([1e3 * seconds for seconds in times]) for times in (base_times, other_times))
    ratio = spread([1 + (b / a - 1) / share for a, b in zip(base_times, other_times, strict=True)])
    return Row(
        *(suite, case, base, other),
        base_ms=first.middle,
        base_ms_20=first.low,
        base_ms_80=first.high,
        other_ms=second.middle,
        other_ms_20=second.low,
        other_ms_80=second.high,
        ratio=ratio.middle,
        ratio_20=ratio.low,
        ratio_80=ratio.high,
        rounds=len(base_times),
    )


def described(row: Row) -> str:
    """One line for the terminal."""
    parts = [f"{row.suite}: {row.case}: {row.other} / {row.base}"]
    if row.ratio is not None:
        parts[0] += f" = {row.ratio:.4f} [{row.ratio_20:.4f}, {row.ratio_80:.4f}]"
        parts.append(f"{row.base_ms:.4g} -> {row.other_ms:.4g} ms")
    if row.other_gb_s is not None and row.base_gb_s is not None:
        parts.append(f"{row.other_gb_s:.4g} GB/s, {row.other_gb_s / row.base_gb_s:.1%} of the copy")
    if row.saved_mb_base is not None and row.saved_mb_other is not None:
        more = row.saved_mb_other - row.saved_mb_base
        parts.append(f"kept {row.saved_mb_base:.6g} -> {row.saved_mb_other:.6g} MB ({more:+.4g})")
    if row.peak_mb_base is not None and row.peak_mb_other is not None:
        parts.append(f"peak {row.peak_mb_base:.0f} -> {row.peak_mb_other:.0f} MB")
    return "  ".join(parts)


def context(device: torch.device) -> dict[str, Any]:
    """When, with which sources, on what and with which versions."""
    facts = versions(device, __version__)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "device": facts["device_name"],
        "threads": facts["threads"],
        "torch": facts["torch"],
        "triton": triton_version(),
    }


def commit() -> str:
    """The commit that is checked out, with + where its sources were changed; empty where git does not know."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + "+" if _git("status", "--porcelain", "--", "../src") else head
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=HERE, check=True)
    return done.stdout.strip()


def triton_version() -> str:
    """Read without importing Triton, which not every platform has."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return ""


def append(row: Row, facts: dict[str, Any], path: Path = RESULTS) -> None:
    """Add a row to a file of results, with a header where the file is new.

    Raises:
        ValueError: where the file has other columns.
    """
    is_new = not path.exists()
    if not is_new:
        with path.open(newline="") as file:
            header = next(csv.reader(file), [])
        if tuple(header) != COLUMNS:
            raise ValueError(f"{path} has columns {header}, expected {list(COLUMNS)}; give another --results")
    values = {**facts, **dataclasses.asdict(row)}
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow({column: _plain(values[column]) for column in COLUMNS})


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
