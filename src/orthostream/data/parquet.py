"""Images in parquet files of the Hugging Face layout: a column of encoded images beside integer labels."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orthostream.data.decode import decode
from orthostream.data.errors import DataError
from orthostream.errors import needs_extra

with needs_extra("vision"):
    import numpy as np
    import pyarrow
    from pyarrow import parquet

SHARD = re.compile(r"-\d+-of-(\d+)\.parquet$")
ROWS_AT_ONCE = 1024


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split, ``<split>-*.parquet``, in the folder or in the only folder below it that has them.

    Raises:
        DataError: where there is none, they lie in several folders, or some of their number are missing.
    """
    found = sorted(folder.glob(f"{split}-*.parquet")) or sorted(folder.glob(f"*/{split}-*.parquet"))
    if not found:
        present = sorted(path.name for path in folder.iterdir())
        raise DataError(
            f"no {split}-*.parquet in {folder}, nor one folder below; it holds: {', '.join(present[:8]) or 'nothing'}"
        )
    folders = sorted({path.parent.name for path in found})
    if len(folders) > 1:
        raise DataError(f"{folder} has a {split} split in several folders: {', '.join(folders)}; name one of them")
    announced = {int(match[1]) for path in found if (match := SHARD.search(path.name))}
    if announced and announced != {len(found)}:
        raise DataError(
            f"{found[0].parent} has {len(found)} {split} files, but their names speak of "
            f"{' and '.join(map(str, sorted(announced)))}; complete the download"
        )
    return found


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
    opened = [_open(file, image_column, label_column, classes) for file in files]
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
                if batch.column(label_column).null_count:
                    raise DataError(f"{file}: column {label_column!r} has rows without a label; give each one")
                labels[done : done + len(batch)] = torch.tensor(batch.column(label_column).to_pylist())
                for row in batch.column(image_column):
                    pixels[done] = _decoded(row.as_py(), f"{file} row {done - first}", size)
                    done += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"cannot read {file}: {error}; download it again") from error
    return images, labels


def _open(file: Path, image_column: str, label_column: str, classes: Sequence[str]) -> "parquet.ParquetFile":
    """A parquet file whose columns and class names are the expected ones."""
    try:
        opened = parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"cannot read {file}: {error}; download it again") from error
    schema = opened.schema_arrow
    missing = [name for name in (image_column, label_column) if name not in schema.names]
    if missing:
        raise DataError(f"{file} has no column {' and '.join(missing)}; it has: {', '.join(schema.names)}")
    kind = schema.field(image_column).type
    if not pyarrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise DataError(f"{file}: column {image_column!r} is {kind}; expected a struct with the field 'bytes'")
    if not pyarrow.types.is_integer(schema.field(label_column).type):
        raise DataError(f"{file}: column {label_column!r} is {schema.field(label_column).type}; expected integers")
    named = _class_names(schema, label_column)
    if named is not None and list(named) != list(classes):
        differs = next((i for i, pair in enumerate(zip(named, classes, strict=False)) if pair[0] != pair[1]), None)
        detail = f"{len(named)} for {len(classes)}" if differs is None else f"{named[differs]!r} is class {differs}"
        raise DataError(f"{file}: column {label_column!r} has other classes than expected: {detail}")
    return opened


def _class_names(schema: "pyarrow.Schema", column: str) -> list[str] | None:
    """Names of the classes in the metadata that the datasets library writes, where there are any."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names: list[str] = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names


def _decoded(cell: dict[str, Any] | None, where: str, size: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Pixels ``[3, size, size]`` of one cell."""
    content = None if cell is None else cell["bytes"]
    if content is None:
        raise DataError(f"{where} holds no image bytes; a file that stores paths alone cannot be read")
    image = decode(content, "RGB", where)
    if image.size != (size, size):
        raise DataError(f"{where}: image of {image.width}x{image.height} pixels, expected {size}x{size}")
    return np.asarray(image).transpose(2, 0, 1)
