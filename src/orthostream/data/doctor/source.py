"""What a source holds before any image is looked at: splits, classes, one item an image, and what is wrong so far."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from orthostream.data.doctor.findings import Finding
from orthostream.data.errors import printable


@dataclass(frozen=True, slots=True)
class InFile:
    """A whole file is the image."""

    path: str


@dataclass(frozen=True, slots=True)
class InTar:
    """Bytes of a tar file."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class InParquet:
    """A cell of a parquet file.

    Args:
        path: of the file.
        group: number of the row group in it.
        row: in the row group.
        column: that holds images.
    """

    path: str
    group: int
    row: int
    column: str


Place: TypeAlias = InFile | InTar | InParquet


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image of a source.

    Args:
        split: number of its split.
        label: class as an index; -1 where it has none that counts.
        name: of the image in the source, as the operating system or the archive says.
        place: where its bytes are.
    """

    split: int
    label: int
    name: str
    place: Place

    def where(self) -> str:
        """Its place for messages; a path in the source, behind the archive that it lies in."""
        if isinstance(self.place, InFile):
            return printable(self.name)
        return f"{printable(Path(self.place.path).name)}: {printable(self.name)}"


@dataclass
class Source:
    """A source that was listed.

    Args:
        path: where it is.
        layout: what it is made of, in words.
        splits: their names; ``train`` is what is learned from.
        classes: names by label, as far as anything names them.
        items: one an image, in the order of splits.
        findings: about the source, its files and labels.
    """

    path: Path
    layout: str
    splits: list[str] = field(default_factory=list[str])
    classes: Sequence[str] = ()
    items: list[Item] = field(default_factory=list[Item])
    findings: list[Finding] = field(default_factory=list[Finding])

    def found(self, kind: str, where: str | Path, detail: str = "", split: str = "") -> None:
        """Add a finding about a place in the source."""
        text = str(where)
        inside = os.path.relpath(text, self.path) if isinstance(where, Path) else text
        self.findings.append(Finding(kind, printable(inside), printable(detail), split))

    def class_name(self, label: int) -> str:
        """A class for people."""
        return self.classes[label] if 0 <= label < len(self.classes) else str(label)


class Boundary:
    """Which links the doctor follows.

    Args:
        root: links that lead out of it are not followed.
        follows_all: follow them nevertheless.
    """

    def __init__(self, root: Path, follows_all: bool) -> None:
        self.root, self.follows_all = root.resolve(), follows_all

    def holds(self, path: str | Path) -> bool:
        """Whether a link leads to a place that may be read. One that leads nowhere is left to whoever opens it."""
        if self.follows_all:
            return True
        try:
            target = Path(path).resolve(strict=True)
        except (OSError, RuntimeError):
            return True
        return target.is_relative_to(self.root)
