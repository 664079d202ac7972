"""All images of a source looked at once, by several processes."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from orthostream.data.doctor.class_folders import TRAIN
from orthostream.data.doctor.duplicates import find_duplicates
from orthostream.data.doctor.findings import Finding
from orthostream.data.doctor.inspect import DIGEST_BYTES, LARGEST_FILE, Facts, inspect
from orthostream.data.doctor.parquet_files import cells
from orthostream.data.doctor.pool import SECONDS, Died, spread
from orthostream.data.doctor.source import InFile, InParquet, InTar, Source
from orthostream.errors import needs_extra

with needs_extra("vision"):
    import numpy as np
    import pyarrow

# A chunk is what a process takes at a time: few messages, and a bar that moves.
IMAGES_A_CHUNK = 32
BYTES_A_CHUNK = 2**23


@dataclass(frozen=True, slots=True)
class Task:
    """An image to look at.

    Args:
        index: among the items of the source.
        name: of the file, for its ending.
        content: a path, a place in a tar file, or bytes; None for a cell of a table without bytes.
    """

    index: int
    name: str
    content: str | InTar | bytes | None

    def read(self) -> Path | bytes:
        """The file, or the bytes.

        Raises:
            OSError: where they cannot be read.
        """
        if isinstance(self.content, str):
            return Path(self.content)
        if isinstance(self.content, InTar):
            with Path(self.content.path).open("rb") as file:
                file.seek(self.content.offset)
                return file.read(self.content.size)
        return self.content or b""


@dataclass
class Scan:
    """What a scan found.

    Args:
        source: that was listed.
        findings: all of them, those of the listing first.
        forms: images by format and kind of pixels.
        sides: ``[images, 2]``, width and height; zeros where unknown.
        digests: ``[images, 2]``, uint64; zeros where the pixels cannot be read.
        done: images looked at.
        is_whole: whether these are all; otherwise the scan was stopped.
        seconds: that it took.
    """

    source: Source
    findings: list[Finding]
    sides: "np.ndarray[Any, np.dtype[np.int64]]"
    digests: "np.ndarray[Any, np.dtype[np.uint64]]"
    forms: Counter[str] = field(default_factory=Counter[str])
    done: int = 0
    is_whole: bool = False
    seconds: float = 0.0


def scan(
    source: Source,
    workers: int | None = None,
    on_images: Callable[[int], None] = lambda done: None,
    should_stop: Callable[[], bool] = lambda: False,
    seconds: float = SECONDS,
) -> Scan:
    """Look at every image of a source once, and compare their pixels.

    Args:
        source: that was listed.
        workers: processes that decode; None for as many as there are cores, 0 for none but this one.
        on_images: called with the number of images that were looked at since the last call.
        should_stop: asked several times a second; once it says so, what was found so far is returned.
        seconds: that a process may take for a chunk of images before it is ended.

    Returns:
        All findings and facts.

    Example:
        >>> scan(list_source("imagenet-1k-sample")).forms["JPEG L"]  # doctest: +SKIP
        23
    """
    begun, total = time.monotonic(), len(source.items)
    result = Scan(source, [], np.zeros((total, 2), np.int64), np.zeros((total, 2), np.uint64))
    processes = len(os.sched_getaffinity(0)) if workers is None else workers
    # Closed here and not by the collector, so that no process outlives the scan.
    answers = spread(_look, _chunks(tasks(source, range(total))), processes, seconds, should_stop)
    try:
        for task, facts in answers:
            _add(result, task, facts)
            on_images(1)
    finally:
        answers.close()
    result.findings.sort(key=lambda finding: finding.item or 0)
    train = source.splits.index(TRAIN) if TRAIN in source.splits else None
    repeated = find_duplicates(source.items, result.digests, source.splits, train)
    result.findings = [*source.findings, *result.findings, *repeated]
    # A broken parquet file, which is a finding, has fewer images than were listed.
    result.is_whole = not should_stop()
    result.seconds = time.monotonic() - begun
    return result


def tasks(source: Source, indices: Iterable[int]) -> Iterator[Task]:
    """Some images of a source with what is needed to read them. Cells of parquet files are read here, forwards.

    A parquet file that turns out to be broken adds a finding to the source, and the next file goes on.

    Args:
        source: that was listed.
        indices: of the images, rising.
    """
    items = source.items
    for path, group in groupby(indices, key=lambda index: items[index].place.path):
        members = list(group)
        if isinstance(items[members[0]].place, InParquet):
            yield from _tasks_of_parquet(source, path, members)
            continue
        for index in members:
            place = items[index].place
            if not isinstance(place, InParquet):
                yield Task(index, items[index].name, place.path if isinstance(place, InFile) else place)


def _tasks_of_parquet(source: Source, path: str, members: Sequence[int]) -> Iterator[Task]:
    wanted: dict[tuple[int, int], int] = {}
    column = ""
    for index in members:
        place = source.items[index].place
        assert isinstance(place, InParquet)
        wanted[place.group, place.row], column = index, place.column
    try:
        for group, row, content in cells(path, column, sorted({group for group, _ in wanted})):
            if (group, row) in wanted:
                # Rows carry no ending that could mislead.
                yield Task(wanted[group, row], "", content)
    except (pyarrow.ArrowException, OSError) as error:
        source.found("broken_shard", Path(path), str(error), source.splits[source.items[members[0]].split])


def _chunks(images: Iterator[Task]) -> Iterator[list[Task]]:
    chunk: list[Task] = []
    size = 0
    for task in images:
        chunk.append(task)
        size += len(task.content) if isinstance(task.content, bytes) else 0
        if len(chunk) == IMAGES_A_CHUNK or size >= BYTES_A_CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _look(task: Task) -> Facts:
    """What a process does with one image."""
    if task.content is None:
        return Facts(problems=(("empty", "the cell holds no image bytes"),))
    if isinstance(task.content, InTar) and task.content.size > LARGEST_FILE:
        return Facts(problems=(("huge", f"{task.content.size:,} bytes"),))
    try:
        return inspect(task.read(), task.name)
    except OSError as error:
        return Facts(problems=(("unreadable", error.strerror or str(error)),))


def _add(result: Scan, task: Task, facts: Facts | Died) -> None:
    item = result.source.items[task.index]
    result.done += 1
    if isinstance(facts, Died):
        facts = Facts(problems=(("decoder_died", facts.reason),))
    result.forms[facts.form or "unknown"] += 1
    result.sides[task.index] = facts.width, facts.height
    if len(facts.digest) == DIGEST_BYTES:
        result.digests[task.index] = np.frombuffer(facts.digest, np.uint64)
    split = result.source.splits[item.split]
    for kind, detail in facts.problems:
        result.findings.append(Finding(kind, item.where(), detail, split, task.index))
