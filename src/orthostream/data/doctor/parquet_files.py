"""Parquet files listed by their metadata and labels, and their image cells read forwards."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from orthostream.data.doctor.source import InParquet, Item, Source
from orthostream.data.parquet import BUFFER, PHOTOGRAPHS_AT_ONCE, stated_classes
from orthostream.errors import needs_extra

with needs_extra("vision"):
    import pyarrow
    from pyarrow import parquet

# The names of the data sets that are read; another column of integers is not guessed at.
LABELS = ("label", "fine_label")
IMAGES = ("image", "img")


def list_parquet(source: Source, path: Path, split: int) -> None:
    """Add the rows of a file: a column of structs with the encoded ``bytes``, and one of integer labels."""
    name = source.splits[split]
    try:
        opened = parquet.ParquetFile(path)
        schema = opened.schema_arrow
        image = next((each for each in IMAGES if each in schema.names and _holds_bytes(schema.field(each).type)), None)
        label = next((each for each in LABELS if each in schema.names), None)
        if image is None or label is None or not pyarrow.types.is_integer(schema.field(label).type):
            expected = f"{' or '.join(IMAGES)} (a struct with bytes) and {' or '.join(LABELS)} (integers)"
            source.found("broken_shard", path, f"columns {', '.join(schema.names)}; expected {expected}", name)
            return
        _add_rows(source, path, split, opened, image, label)
    except (pyarrow.ArrowException, OSError) as error:
        source.found("broken_shard", path, str(error), name)


def cells(path: str, column: str, groups: Sequence[int]) -> Iterator[tuple[int, int, bytes | None]]:
    """Image bytes of some row groups of a file, read forwards and a few rows at a time.

    Args:
        path: of the file.
        column: that holds images.
        groups: numbers of the row groups.

    Yields:
        Row group, row in it, and the bytes; None for a cell without any.

    Raises:
        pyarrow.ArrowException: where the file is broken.
        OSError: where it cannot be read.
    """
    opened = parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
    for group in groups:
        row = 0
        for batch in opened.iter_batches(PHOTOGRAPHS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False):
            for cell in batch.column(0):
                held = cell.as_py()
                yield group, row, None if held is None else held["bytes"]
                row += 1


def _holds_bytes(kind: "pyarrow.DataType") -> bool:
    return pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _add_rows(source: Source, path: Path, split: int, opened: "parquet.ParquetFile", image: str, label: str) -> None:
    name = source.splits[split]
    named = stated_classes(opened.schema_arrow, label)
    if named is not None:
        if source.classes and list(source.classes) != named:
            source.found("other_classes", path, f"{len(named)} names for {len(source.classes)}", name)
        source.classes = source.classes or named
    row = 0
    for group in range(opened.num_row_groups):
        held = opened.read_row_group(group, columns=[label], use_threads=False).column(0).to_pylist()
        for inside, number in enumerate(held):
            is_label = number is not None and number >= 0
            if not is_label:
                source.found("bad_label", f"{path.name}: row {row}", "none" if number is None else f"{number}", name)
            place = InParquet(str(path), group, inside, image)
            source.items.append(Item(split, number if is_label else -1, f"row {row}", place))
            row += 1
