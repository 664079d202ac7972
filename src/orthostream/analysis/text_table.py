"""Rows of cells as aligned text, for terminals and logs."""

from collections.abc import Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], flush: str) -> str:
    """A table of text with columns two spaces apart.

    Args:
        header: one title a column.
        rows: one cell a column; each row as long as the header.
        flush: one letter a column, "l" for flush left (words) or "r" for flush right (numbers).

    Returns:
        The lines, joined, without trailing blanks.
    """
    lines = [header, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if side == "l" else cell.rjust(width)
            for cell, width, side in zip(cells, widths, flush, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *(line(row) for row in rows)])
