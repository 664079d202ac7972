"""What a scan found, as rows of tables and as JSON. All text is printable: names of files may hold any bytes."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from orthostream.data.doctor.findings import KINDS, Finding, Severity
from orthostream.data.doctor.labels import balances
from orthostream.data.doctor.scan import Scan
from orthostream.data.errors import printable

SPLIT_HEADER = ("split", "images", "classes", "a class: least", "median", "most")
KIND_HEADER = ("severity", "finding", "count", "what it is", "training and evaluation", "where")
EXAMPLES, LONGEST, FORMS = 2, 48, 8


def split_rows(scan: Scan) -> list[tuple[str, ...]]:
    """A row a split: images, classes, and images in a class."""
    return [
        (
            one_line(printable(row.split)),
            *(f"{count:,}" for count in (row.images, row.classes, row.least, row.median, row.most)),
        )
        for row in balances(scan.source)
    ]


def kind_rows(scan: Scan) -> list[tuple[str, ...]]:
    """A row a kind of finding, the gravest first, in the order of the table of kinds."""
    held = by_kind(scan.findings)
    return [
        (
            KINDS[kind].severity.name.lower(),
            kind,
            f"{len(held[kind]):,}",
            KINDS[kind].meaning,
            KINDS[kind].outcome,
            _examples(held[kind]),
        )
        for kind in held
    ]


def by_kind(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Findings of each kind that occurs, the gravest kinds first, in the order of the table of kinds."""
    held: dict[str, list[Finding]] = {}
    for finding in findings:
        held.setdefault(finding.kind, []).append(finding)
    order = {kind: place for place, kind in enumerate(KINDS)}
    return {kind: held[kind] for kind in sorted(held, key=lambda kind: (-KINDS[kind].severity, order[kind]))}


def summary(scan: Scan) -> str:
    """One line: how many findings in how many images, and how fast."""
    counted = Counter(finding.severity for finding in scan.findings)
    found = ", ".join(
        f"{counted[severity]:,} {severity.name.lower()}{'' if counted[severity] == 1 else 's'}"
        for severity in sorted(Severity, reverse=True)
    )
    total = len(scan.source.items)
    images = f"{scan.done:,} images" if scan.is_whole else f"{scan.done:,} of {total:,} images, then stopped"
    return f"{found} in {images}; {scan.done / max(scan.seconds, 1e-9):,.0f} images/s"


def facts(scan: Scan) -> list[str]:
    """Lines about formats and sizes."""
    common = scan.forms.most_common()
    forms = ", ".join(f"{form} {count:,}" for form, count in common[:FORMS])
    forms += f" and {len(common) - FORMS} more" if len(common) > FORMS else ""
    known = scan.sides[scan.sides.min(axis=1, initial=1) > 0] if len(scan.sides) else scan.sides
    lines = [f"formats: {forms or 'none'}"]
    if len(known):
        (width, height), (widest, highest) = known.min(axis=0), known.max(axis=0)
        lines.append(f"sizes: width {width} to {widest}, height {height} to {highest}")
    return lines


def as_json(scan: Scan) -> dict[str, Any]:
    """Everything, for programs: counts, and each finding with its place.

    Returns:
        ``source``, ``layout``, ``images``, ``scanned``, ``is_whole``, ``seconds``, ``splits``, ``formats``, ``counts``
        by severity and by kind, and ``findings``.
    """
    counted = Counter(finding.severity.name.lower() for finding in scan.findings)
    items = scan.source.items
    return {
        "source": printable(str(scan.source.path)),
        "layout": scan.source.layout,
        "images": len(items),
        "scanned": scan.done,
        "is_whole": scan.is_whole,
        "seconds": round(scan.seconds, 3),
        "splits": [
            {
                "name": printable(row.split),
                "images": row.images,
                "classes": row.classes,
                "class_least": row.least,
                "class_median": row.median,
                "class_most": row.most,
            }
            for row in balances(scan.source)
        ],
        "formats": dict(scan.forms.most_common()),
        "counts": {severity.name.lower(): counted[severity.name.lower()] for severity in Severity},
        "kinds": {kind: len(found) for kind, found in by_kind(scan.findings).items()},
        "findings": [
            {
                "severity": finding.severity.name.lower(),
                "kind": finding.kind,
                "split": printable(finding.split),
                "class": None if finding.item is None else scan.source.class_name(items[finding.item].label),
                "where": finding.where,
                "detail": finding.detail,
            }
            for finding in scan.findings
        ],
    }


def _examples(findings: Sequence[Finding]) -> str:
    """The first few places."""
    shown = [_end(each.where) + (f" ({_begin(each.detail)})" if each.detail else "") for each in findings[:EXAMPLES]]
    return ", ".join(shown) + (" ..." if len(findings) > EXAMPLES else "")


def _end(text: str) -> str:
    """The end of a place, which tells files apart."""
    flat = one_line(text)
    return flat if len(flat) <= LONGEST else f"...{flat[3 - LONGEST :]}"


def _begin(text: str) -> str:
    flat = one_line(text)
    return flat if len(flat) <= LONGEST else f"{flat[: LONGEST - 3]}..."


def one_line(text: str) -> str:
    """A text without line ends and signs that steer a terminal, which names of files may have.

    Example:
        >>> one_line("two\\nlines")
        'two\\\\nlines'
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
