"""Statistics rows of a run as numbers by site and step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orthostream.analysis.runs import Run


@dataclass(frozen=True)
class LoggedSite:
    """A site as its key in the log names it: ``activation/{kind}/block{block:02d}``."""

    kind: str
    block: int


@dataclass(frozen=True)
class SiteSeries:
    """One metric of one run.

    Args:
        sites: in the order of the model.
        steps: optimizer steps at which the stream was sampled.
        values: ``[step][site]``; NaN where a value is missing or was not finite.
    """

    sites: Sequence[LoggedSite]
    steps: Sequence[int]
    values: Sequence[Sequence[float]]


def site_series(run: Run, metric: str) -> SiteSeries | None:
    """A metric at every site and sampled step of a run; None where it was never recorded."""
    keys = {key: site for row in run.statistics for key in row if (site := _site(key, metric)) is not None}
    if not keys:
        return None
    steps = [row["step"] for row in run.statistics]
    values = [[math.nan if (value := row.get(key)) is None else float(value) for key in keys] for row in run.statistics]
    return SiteSeries(list(keys.values()), steps, values)


def _site(key: str, metric: str) -> LoggedSite | None:
    parts = key.split("/", 3)
    if len(parts) < 4 or parts[0] != "activation" or parts[3] != metric:
        return None
    number = parts[2].removeprefix("block")
    return LoggedSite(parts[1], int(number)) if number != parts[2] and number.isdecimal() else None
