"""Many matrices at once: which are worked on together, and the work on one such chunk."""

from collections.abc import Sequence

import torch
from torch import Tensor

from orthostream.optim.polar import Polar
from orthostream.optim.rule import Chunk

# On a CPU a batch of products of this smaller side or more is slower than one after the other.
LONE_SIDE = 128
# Numbers in the matrices of a chunk: on a CPU so many that they stay in cache.
MOST_ON_CPU = 2**20
MOST_ELSEWHERE = 2**24


def plan(shapes: Sequence[tuple[int, ...]], polar: Polar, device: torch.device) -> tuple[Chunk, ...]:
    """Divide matrices into chunks that are worked on together.

    Depends on shapes, options and the kind of device alone, so that all processes divide alike.

    Args:
        shapes: ``(rows, columns)``, or ``(count, rows, columns)`` for a stack of separate matrices.
        polar: how factors are computed.
        device: where.

    Returns:
        Chunks in the order of their first matrix; together they hold each index once. Empty matrices are in none but
        a chunk of their own.

    Example:
        >>> plan([(8, 72), (8, 27), (16, 72)], Polar(), torch.device("cpu"))[0].indices
        (0, 1)
    """
    found: dict[tuple[object, ...], list[list[int]]] = {}
    filled: dict[tuple[object, ...], int] = {}
    for index, shape in enumerate(shapes):
        count, rows, columns = (1, *shape) if len(shape) == 2 else shape
        small, large = sorted((rows, columns))
        key: tuple[object, ...]
        if count * small == 0:
            key, size, most = ("empty",), 0, 1
        else:
            way = polar.way(rows, columns, device)
            shares_small_side = way in ("gram", "eigh") and polar.method != "root"
            key = (way, small) if shares_small_side else (way, small, large)
            size = count * small * large
            most = MOST_ELSEWHERE if device.type != "cpu" else MOST_ON_CPU if small < LONE_SIDE else 0
        if key not in found or filled[key] + size > most:
            found.setdefault(key, []).append([])
            filled[key] = 0
        found[key][-1].append(index)
        filled[key] += size
    divided = sorted(members for parts in found.values() for members in parts)
    return tuple(Chunk(tuple(members), _cost(members, shapes, polar, device)) for members in divided)


def _cost(members: Sequence[int], shapes: Sequence[tuple[int, ...]], polar: Polar, device: torch.device) -> float:
    total = 0.0
    for index in members:
        count, rows, columns = (1, *shapes[index]) if len(shapes[index]) == 2 else shapes[index]
        total += count * polar.flops(rows, columns, device) if count * rows * columns else 0.0
    return total


def run(matrices: Sequence[Tensor], polar: Polar) -> list[Tensor]:
    """Polar factors of the matrices of one chunk of :func:`plan`.

    Args:
        matrices: [rows, columns] or [count, rows, columns] each, on one device.
        polar: the options that the chunk was planned with.

    Returns:
        New tensors of the same shapes and dtypes, which depend on these matrices alone.

    Example:
        >>> first, second = run([torch.eye(2, 3), 5 * torch.eye(2, 4)], Polar(method="eigh"))
        >>> torch.equal(first, torch.eye(2, 3)) and torch.equal(second, torch.eye(2, 4))
        True
    """
    results: dict[int, Tensor] = {}
    stacks: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
    for index, matrix in enumerate(matrices):
        if matrix.numel() == 0:
            results[index] = matrix.clone()
        else:
            stacks.setdefault((matrix.shape, matrix.dtype), []).append(index)
    if stacks:
        # Matrices of one shape are multiplied together.
        factors = polar.factors([_stack([matrices[i] for i in members]) for members in stacks.values()])
        for ((shape, _), members), stack in zip(stacks.items(), factors, strict=True):
            results |= zip(members, stack.view(len(members), *shape), strict=True)
    return [results[index] for index in range(len(matrices))]


def _stack(matrices: list[Tensor]) -> Tensor:
    """Matrices or stacks of one shape as one stack [count, rows, columns]; a single one is not copied."""
    whole = torch.stack(matrices) if len(matrices) > 1 else matrices[0].unsqueeze(0)
    return whole.flatten(0, -3)
