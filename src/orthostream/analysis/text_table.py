"""Rows of cells as aligned text, for terminals and logs."""

from collections.abc import Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A table of text: columns two spaces apart, the first ``left`` ones flush left, the others flush right.

    Args:
        header: one title a column.
        rows: one cell a column; each row as long as the header.
        left: how many columns hold words rather than numbers.

    Returns:
        The lines, joined, without trailing blanks.
    """
    lines = [header, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if position < left else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *(line(row) for row in rows)])
