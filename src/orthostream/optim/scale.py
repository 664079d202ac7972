"""Factors on an orthogonal update, by the conventions of the field."""

import math

from orthostream.errors import UsageError, unknown

NAMES = ("none", "muon", "moonlight", "spectral")


def factor(name: str, rows: int, columns: int) -> float:
    """The factor on a polar factor of N rows (outputs) and P columns (inputs of each output, kernel included).

        none:      1                       the paper
        muon:      sqrt(max(1, N / P))     Muon's own
        moonlight: 0.2 sqrt(max(N, P))     root mean square 0.2 per element, as AdamW's updates
        spectral:  sqrt(N / P)             keeps the root mean square of activations

    Args:
        name: one of ``none``, ``muon``, ``moonlight``, ``spectral``.
        rows: N of the matrix, not of the tensor that it was flattened from.
        columns: P of the matrix.

    Raises:
        UsageError: for an unknown name, or a matrix without rows or columns.

    Example:
        >>> factor("muon", 64, 16), factor("muon", 16, 64), factor("spectral", 16, 64), factor("moonlight", 25, 4)
        (2.0, 1.0, 0.5, 1.0)

    Reference:
        Jordan et al., Muon, 2024; Liu et al., Muon is scalable for LLM training, arXiv:2502.16982, section 2.2;
        Bernstein and Newhouse, arXiv:2410.21265.
    """
    if name not in NAMES:
        raise UsageError(unknown("scale", name, NAMES))
    if rows < 1 or columns < 1:
        raise UsageError(f"a scale needs a matrix with rows and columns, got {rows} x {columns}")
    if name == "muon":
        return math.sqrt(max(1.0, rows / columns))
    if name == "moonlight":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(rows / columns) if name == "spectral" else 1.0
