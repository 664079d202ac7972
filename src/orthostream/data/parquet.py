"""Images in parquet files of the Hugging Face layout: a column of encoded images beside integer labels.

Small ones are decoded into memory by :func:`read_images`; of others :class:`ParquetSet` reads what is asked for.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from orthostream.data.decode import USUAL, decode
from orthostream.data.errors import DataError
from orthostream.data.images import checked_labels
from orthostream.errors import needs_extra

with needs_extra("vision"):
    import numpy as np
    import pyarrow
    from PIL import Image
    from pyarrow import parquet

SHARD = re.compile(r"-\d+-of-(\d+)\.parquet$")
ROWS_AT_ONCE = 1024
# Photographs are a hundred times as large as the images that are decoded at once.
PHOTOGRAPHS_AT_ONCE = 64
BUFFER = 2**20


class MissingColumnError(DataError):
    """A parquet file has other columns than those that are read."""


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split, ``<split>-*.parquet``, in the folder or in the only folder below it that has them.

    Raises:
        DataError: where there is none, they lie in several folders, or some of their number are missing.
    """
    names = [path.relative_to(folder).as_posix() for path in [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]]
    found = split_names(names, split, str(folder))
    if not found:
        present = sorted(path.name for path in folder.iterdir())
        raise DataError(
            f"no {split}-*.parquet in {folder}, nor one folder below; it holds: {', '.join(present[:8]) or 'nothing'}"
        )
    return [folder / name for name in found]


def split_names(names: Sequence[str], split: str, source: str) -> list[str]:
    """Of the names of files in a folder or repository, those of a split, sorted; none where it has no such split.

    Args:
        names: relative to the source, with ``/``.
        split: they are ``<split>-*.parquet``, in the source itself or in the only folder in it that has them.
        source: for messages.

    Raises:
        DataError: where they lie in several folders, or some of their number are missing.

    Example:
        >>> split_names(["data/train-0.parquet", "data/val-0.parquet", "README.md"], "val", "somebody/set")
        ['data/val-0.parquet']
    """
    paths = [PurePosixPath(name) for name in sorted(names)]
    of_split = [path for path in paths if path.match(f"{split}-*.parquet")]
    found = [path for path in of_split if len(path.parts) == 1] or [path for path in of_split if len(path.parts) == 2]
    folders = sorted({path.parent.name for path in found})
    if len(folders) > 1:
        raise DataError(f"{source} has a {split} split in several folders: {', '.join(folders)}; name one of them")
    announced = {int(match[1]) for path in found if (match := SHARD.search(path.name))}
    if announced and announced != {len(found)}:
        raise DataError(
            f"{PurePosixPath(source) / found[0].parent} has {len(found)} {split} files, but their names speak of "
            f"{' and '.join(map(str, sorted(announced)))}; complete the download"
        )
    return [str(path) for path in found]


def read_images(
    files: Sequence[Path], *, image_column: str, label_column: str, size: int, classes: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Decode all images of some files into memory.

    Only these two columns are read, a thousand rows at a time, and nothing is written: any number of processes
    may read the same files.

    Args:
        files: in order.
        image_column: of encoded images: a struct with ``bytes``.
        label_column: of integers.
        size: each image is RGB and has this many pixels a side.
        classes: where the file names its classes, it must name these, in this order.

    Returns:
        uint8 ``[samples, 3, size, size]`` and int64 ``[samples]``.

    Raises:
        DataError: naming the file, and the row where there is one.
    """
    opened = [_open(file, image_column, label_column) for file in files]
    for file, table in zip(files, opened, strict=True):
        _check_classes(file, stated_classes(table.schema_arrow, label_column), classes)
    total = sum(table.metadata.num_rows for table in opened)
    images = torch.empty(total, 3, size, size, dtype=torch.uint8)
    labels = torch.empty(total, dtype=torch.int64)
    pixels, done = images.numpy(), 0
    for file, table in zip(files, opened, strict=True):
        first = done
        try:
            # One thread: data is often read while other processes of the run read it too.
            batches = table.iter_batches(ROWS_AT_ONCE, columns=[image_column, label_column], use_threads=False)
            for batch in batches:
                labels[done : done + len(batch)] = _labels(batch.column(label_column), file, label_column)
                for row in batch.column(image_column):
                    pixels[done] = _decoded(row.as_py(), f"{file} row {done - first}", size)
                    done += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise _unreadable(file, error) from error
    return images, labels


class ParquetSet:
    """Images of parquet files, decoded when asked for, in the order of files and rows.

    Rows are read forwards: asked for in rising order, as evaluations do, each page of a file is read once by a process
    and held alone. Any other order is right too, and slow.

    Args:
        files: in order; all name the same classes, or none does.
        image_column: of encoded images: a struct with ``bytes``.
        label_column: of integers.

    Raises:
        DataError: for a file that cannot be read, lacks a column or names other classes, or a label that is missing or
            out of range, at once; for an unreadable image, when it is asked for.
    """

    def __init__(self, files: Sequence[Path], *, image_column: str = "image", label_column: str = "label") -> None:
        self.files, self.image_column, self.decoding = list(files), image_column, USUAL
        opened = [_open(file, image_column, label_column) for file in self.files]
        named = [stated_classes(table.schema_arrow, label_column) for table in opened]
        # Names of the classes, where the files tell them.
        self.classes = next((tuple(names) for names in named if names is not None), None)
        for file, names in zip(self.files, named, strict=True):
            _check_classes(file, names, self.classes or ())
        labels = torch.cat(
            [_label_column(table, file, label_column) for file, table in zip(self.files, opened, strict=True)]
        )
        largest = int(labels.max()) if len(labels) else -1
        self.num_classes = largest + 1 if self.classes is None else len(self.classes)
        self.labels = checked_labels(labels, self.num_classes, str(self.files[0].parent))
        # File and number of each row group, the index of its first row, and that of the first row of each file.
        groups = [(file, group) for file, table in enumerate(opened) for group in range(table.num_row_groups)]
        rows = [opened[file].metadata.row_group(group).num_rows for file, group in groups]
        self._groups = np.array(groups, dtype=np.int64).reshape(-1, 2)
        self._begins = np.cumsum([0, *rows])[:-1]
        self._first = np.cumsum([0, *(table.metadata.num_rows for table in opened)])
        self._cursor: _Rows | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        # An open file stays behind where workers are not forked.
        return self.__dict__ | {"_cursor": None}

    def image(self, index: int) -> "Image.Image":
        where = self.where(index)
        group = int(np.searchsorted(self._begins, index, side="right")) - 1
        file = self.files[self._groups[group, 0]]
        row = index - int(self._begins[group])
        try:
            # A position in a file that was shared with a forked worker would be moved by it.
            if self._cursor is None or not self._cursor.reaches(group, row, os.getpid()):
                self._cursor = _Rows(file, int(self._groups[group, 1]), self.image_column, group, os.getpid())
            cell = self._cursor.cell(row)
        except (pyarrow.ArrowException, OSError) as error:
            raise _unreadable(file, error) from error
        return decode(_content(cell, where), "RGB", where, self.decoding)

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def where(self, index: int) -> str:
        file = int(np.searchsorted(self._first, index, side="right")) - 1
        return f"{self.files[file]} row {index - int(self._first[file])}, index {index}"


class _Rows:
    """One column of a row group, read forwards.

    Args:
        file: to read.
        number: of the row group in the file.
        column: its name.
        group: number of the row group in the whole set.
        process: that reads it.
    """

    def __init__(self, file: Path, number: int, column: str, group: int, process: int) -> None:
        self.group, self.process = group, process
        # Buffered and not fetched ahead: of a large row group only the page that is read is held in memory.
        self._file = parquet.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)
        self._batches = self._file.iter_batches(
            PHOTOGRAPHS_AT_ONCE, row_groups=[number], columns=[column], use_threads=False
        )
        self._begin, self._cells = 0, pyarrow.array([])

    def reaches(self, group: int, row: int, process: int) -> bool:
        """Whether a row lies here and not behind."""
        return (self.group, self.process) == (group, process) and row >= self._begin

    def cell(self, row: int) -> dict[str, Any] | None:
        """One cell of the column."""
        while row >= self._begin + len(self._cells):
            self._begin += len(self._cells)
            self._cells = next(self._batches).column(0)
        found: dict[str, Any] | None = self._cells[row - self._begin].as_py()
        return found


def _open(file: Path, image_column: str, label_column: str) -> "parquet.ParquetFile":
    """A parquet file whose columns are the expected ones."""
    try:
        opened = parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error
    schema = opened.schema_arrow
    missing = [name for name in (image_column, label_column) if name not in schema.names]
    if missing:
        raise MissingColumnError(f"{file} has no column {' and '.join(missing)}; it has: {', '.join(schema.names)}")
    kind = schema.field(image_column).type
    if not pyarrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise DataError(f"{file}: column {image_column!r} is {kind}; expected a struct with the field 'bytes'")
    if not pyarrow.types.is_integer(schema.field(label_column).type):
        raise DataError(f"{file}: column {label_column!r} is {schema.field(label_column).type}; expected integers")
    return opened


def _check_classes(file: Path, named: Sequence[str] | None, classes: Sequence[str]) -> None:
    """Where a file names its classes, they are the expected ones, in their order."""
    if named is None or list(named) == list(classes):
        return
    differs = next((i for i, pair in enumerate(zip(named, classes, strict=False)) if pair[0] != pair[1]), None)
    detail = f"{len(named)} for {len(classes)}" if differs is None else f"{named[differs]!r} is class {differs}"
    raise DataError(f"{file} has other classes than expected: {detail}")


def stated_classes(schema: "pyarrow.Schema", column: str) -> list[str] | None:
    """Names of the classes in the metadata that the datasets library writes, where there are any."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names: list[str] = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names


def _decoded(cell: dict[str, Any] | None, where: str, size: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Pixels ``[3, size, size]`` of one cell."""
    image = decode(_content(cell, where), "RGB", where)
    if image.size != (size, size):
        raise DataError(f"{where}: image of {image.width}x{image.height} pixels, expected {size}x{size}")
    return np.asarray(image).transpose(2, 0, 1)


def _content(cell: dict[str, Any] | None, where: str) -> bytes:
    """The encoded image of one cell."""
    content: bytes | None = None if cell is None else cell["bytes"]
    if content is None:
        raise DataError(f"{where} holds no image bytes; a file that stores paths alone cannot be read")
    return content


def _label_column(table: "parquet.ParquetFile", file: Path, column: str) -> Tensor:
    """All labels of a file."""
    try:
        held = table.read(columns=[column], use_threads=False).column(0)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error
    return _labels(held, file, column)


def _labels(held: "pyarrow.Array | pyarrow.ChunkedArray", file: Path, column: str) -> Tensor:
    """Labels, int64, none of which is missing."""
    if held.null_count:
        raise DataError(f"{file}: column {column!r} has rows without a label; give each one")
    return torch.tensor(held.to_pylist(), dtype=torch.int64)


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"cannot read {file}: {error}; download it again")
