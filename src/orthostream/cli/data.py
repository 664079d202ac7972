"""Look a data set over before training: what is broken, what is not what it seems, and what lies in it twice.

SOURCE is a folder that holds train/<class>/ and val/<class>/, or one of them, or class folders themselves; a .tar
shard or parquet file, or a folder of them; or a hub id, whose files are downloaded. Every image is read once, by
several processes, as training would read it; what is larger than a decoder should be trusted with is not decoded.

Written are a table, report.json with every finding, and contact_sheet.png with examples.

exit code: 0 nothing but notes, 1 warnings, 3 errors, at which training or evaluation would stop, 2 a mistake in the
call, 130 stopped by Ctrl-C, with what was found so far

example:
  orthostream data check imagenet/ --out imagenet-check
  orthostream data check shards/ --num-classes 1000 --workers 8
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from orthostream.analysis.text_table import aligned
from orthostream.data.doctor import Scan, Severity, list_source, scan, worst
from orthostream.data.doctor.report import (
    KIND_HEADER,
    SPLIT_HEADER,
    as_json,
    facts,
    kind_rows,
    one_line,
    split_rows,
    summary,
)
from orthostream.data.doctor.sheet import write_sheet
from orthostream.data.errors import printable
from orthostream.errors import UsageError, needs_extra
from orthostream.training.progress import duration
from orthostream.training.signals import stop_requests

CODES = {Severity.NOTE: 0, Severity.WARNING: 1, Severity.ERROR: 3}
INTERVAL = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``orthostream data``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check", help="look at every image once", description=__doc__, formatter_class=parser.formatter_class
    )
    check.add_argument("source", metavar="SOURCE", help="folder, .tar or .parquet file, or hub id")
    check.add_argument(
        "--out", type=Path, default=Path("data_check"), help="folder for the results; default data_check"
    )
    check.add_argument("--workers", type=int, help="processes that decode; default: one a core")
    check.add_argument("--num-classes", type=int, help="labels must lie below it, where the source names no classes")
    check.add_argument("--follow-links", action="store_true", help="read links that lead out of the source")


def run(options: argparse.Namespace) -> int:
    """Carry out ``orthostream data``."""
    if options.workers is not None and options.workers < 0:
        raise UsageError(f"--workers {options.workers}: expected 0 (decode in this process) or more")
    if options.num_classes is not None and options.num_classes < 1:
        raise UsageError(f"--num-classes {options.num_classes}: expected at least 1")
    _prepare(options.out)
    source = list_source(options.source, follow_links=options.follow_links, num_classes=options.num_classes)
    with stop_requests() as stop:
        with _progress(len(source.items)) as show:
            found = scan(source, options.workers, show.add, lambda: stop.signal != 0)
        table = as_text(found)
        print(table, flush=True)
        _write(options.out, found, table)
    if stop.signal:
        print("stopped: the table holds what was found until then", file=sys.stderr)
        return 128 + stop.signal
    return CODES[worst(found.findings)]


def as_text(found: Scan) -> str:
    """The result for the terminal."""
    source = found.source
    lines = [f"{one_line(printable(str(source.path)))}: {source.layout}", ""]
    lines += [aligned(SPLIT_HEADER, split_rows(found), "lrrrrr"), "", *facts(found), ""]
    if rows := kind_rows(found):
        lines += [aligned(KIND_HEADER, rows, "llrlll"), ""]
    return "\n".join([*lines, summary(found)])


def _prepare(out: Path) -> None:
    """Make the folder and see that it can be written, before minutes of work depend on it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write to --out {out}: {error.strerror or error}; give another folder") from error


def _write(out: Path, found: Scan, table: str) -> None:
    files = ["table.txt", "report.json"]
    try:
        (out / "table.txt").write_text(f"{table}\n", "utf-8")
        (out / "report.json").write_text(json.dumps(as_json(found), indent=1), "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write to --out {out}: {error.strerror or error}; give another folder") from error
    if write_sheet(out / "contact_sheet.png", found):
        files.append("contact_sheet.png")
    print(f"written to {out}: {', '.join(files)}")


class _Progress(Protocol):
    """Shows how many images were looked at."""

    def add(self, images: int) -> None: ...


class _Lines:
    """A line on the error stream now and then."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.begun = self.spoke = time.monotonic()

    def add(self, images: int) -> None:
        self.done += images
        now = time.monotonic()
        if now - self.spoke >= INTERVAL:
            self.spoke = now
            left = duration((now - self.begun) / self.done * (self.total - self.done))
            print(f"{self.done:,} of {self.total:,} images  left {left}", file=sys.stderr, flush=True)


class _Bar:
    """A live bar on the error stream, drawn from here: a thread of its own would be there when processes are forked."""

    INTERVAL = 0.1

    def __init__(self, total: int) -> None:
        with needs_extra("vision"):
            from rich import console, progress
        self.bar = progress.Progress(
            progress.TextColumn("images"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            console=console.Console(stderr=True),
            auto_refresh=False,
        )
        self.task = self.bar.add_task("images", total=total)
        self.drawn = time.monotonic()

    def add(self, images: int) -> None:
        self.bar.update(self.task, advance=images)
        if time.monotonic() - self.drawn >= self.INTERVAL:
            self.drawn = time.monotonic()
            self.bar.refresh()


@contextmanager
def _progress(total: int) -> Iterator[_Progress]:
    """A bar on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines(total)
        return
    show = _Bar(total)
    with show.bar:
        yield show
