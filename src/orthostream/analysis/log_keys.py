"""The keys under which statistics are logged: those of the authors' trainer."""

from collections.abc import Mapping, Sequence
from typing import Any

from orthostream.errors import UsageError

# What names a row; everything else in it is a value.
PLACE = ("site", "kind", "block")


def as_log(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Rows of a recording as one flat dictionary.

    A value stands under ``activation/{kind}/block{id:02d}/{metric}``. ``activation/{kind}/mean/{metric}`` is the
    unweighted mean over the sites of a kind that report the metric, ``activation/all/mean/{metric}`` over all such
    sites. Numbers of single rules are metrics named ``pattern/<name>``.

    Args:
        rows: dictionaries with ``site``, ``kind``, ``block`` and values by metric.

    Raises:
        UsageError: where two sites of one kind stand in one block and would share their keys.
    """
    log: dict[str, float] = {}
    for row in rows:
        place = f"activation/{_kind(row)}/block{row['block']:02d}"
        if f"{place}/x_norm2" in log:
            same = [other["site"] for other in rows if (_kind(other), other["block"]) == (_kind(row), row["block"])]
            raise UsageError(
                f"sites {' and '.join(same)} would be logged under the same key {place!r}; give their Site "
                "different kinds or blocks, or read the values from table()"
            )
        log |= {f"{place}/{metric}": value for metric, value in row.items() if metric not in PLACE}
    for kind in (*dict.fromkeys(_kind(row) for row in rows), "all"):
        members = [row for row in rows if kind in ("all", _kind(row))]
        for metric in dict.fromkeys(name for row in members for name in row if name not in PLACE):
            values = [row[metric] for row in members if metric in row]
            log[f"activation/{kind}/mean/{metric}"] = sum(values) / len(values)
    return log


def _kind(row: Mapping[str, Any]) -> str:
    """The kind of a site; one made by hand without a kind is a plain "site"."""
    return row["kind"] or "site"
