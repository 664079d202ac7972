"""Fused kernels that read and write streams: each operand is read once and each result written once.

Every kernel sees rows ``[outer, rows, n, features]`` by their strides, whatever their order of memory: tokens are read
along the features, maps with channels first along the pixels, and expanded operands have strides of zero. It
computes in float32 with one rounding out. A program owns some rows with all their streams and goes through their
features in steps. Backward adds products up element by element on the way and over the features once, at the end. No
sum is shared between programs: results are bit-identical from run to run.

Offsets are 64-bit integers.
"""

# Tuples of tiles grow as loops unroll, which changes their type.
# mypy: disable-error-code="no-untyped-def,assignment"

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from orthostream.ops.launch import FUSED, device_of
from orthostream.ops.streams.closed_form import ReadGradients, WriteGradients

# Float32 numbers that a thread holds at once, and most elements of any one tile: its share of the registers.
HELD = 96
A_THREAD = 16
# Most warps a program, and the steps through the features below which there is no use for another.
WARPS = 8
STEPS = 8
# Rows of a tile that is read along them: 64 bytes of a half-precision map, 128 of a float32 one.
PIXELS = 32


@triton.jit
def _read(
    streams,
    weights,
    x,
    streams_strides,
    weights_strides,
    x_strides,
    rows,
    features,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rows: the weighted sums of their streams."""
    outer, row, is_row = _rows(rows, ROWS)
    w = _vector(weights, weights_strides, outer, row, is_row, N)
    for first in range(0, features, BLOCK):
        feature, mask = _features(first, features, is_row, BLOCK)
        tiles = _tiles(streams, streams_strides, outer, row, feature, mask, N)
        total = w[0][:, None] * tiles[0]
        for i in tl.static_range(1, N):
            total += w[i][:, None] * tiles[i]
        place = _place(x_strides[0], x_strides[1], x_strides[2], outer, row, feature)
        tl.store(x + place, total.to(x.dtype.element_ty), mask=mask)


@triton.jit
def _read_backward(
    grad,
    streams,
    weights,
    by_streams,
    by_weights,
    grad_strides,
    streams_strides,
    weights_strides,
    by_streams_strides,
    rows,
    features,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rows: the gradients of their streams and weights."""
    outer, row, is_row = _rows(rows, ROWS)
    w = _vector(weights, weights_strides, outer, row, is_row, N)
    products = (tl.zeros([ROWS, BLOCK], tl.float32),) * N
    for first in range(0, features, BLOCK):
        feature, mask = _features(first, features, is_row, BLOCK)
        place = _place(grad_strides[0], grad_strides[1], grad_strides[2], outer, row, feature)
        grad_tile = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
        tiles = _tiles(streams, streams_strides, outer, row, feature, mask, N)
        target = by_streams + _place(
            by_streams_strides[0], by_streams_strides[1], by_streams_strides[3], outer, row, feature
        )
        sums = ()
        for i in tl.static_range(N):
            tl.store(target, (w[i][:, None] * grad_tile).to(by_streams.dtype.element_ty), mask=mask)
            target += by_streams_strides[2]
            sums += (products[i] + tiles[i] * grad_tile,)
        products = sums
    _store_sums(by_weights + (outer * rows + row) * N, products, is_row, N)


@triton.jit
def _write(
    streams,
    update,
    mixing,
    weights,
    written,
    streams_strides,
    update_strides,
    mixing_strides,
    weights_strides,
    written_strides,
    rows,
    features,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rows: their streams mixed, and the update added to each."""
    outer, row, is_row = _rows(rows, ROWS)
    m = _matrix(mixing, mixing_strides, outer, row, is_row, N)
    b = _vector(weights, weights_strides, outer, row, is_row, N)
    for first in range(0, features, BLOCK):
        feature, mask = _features(first, features, is_row, BLOCK)
        tiles = _tiles(streams, streams_strides, outer, row, feature, mask, N)
        place = _place(update_strides[0], update_strides[1], update_strides[2], outer, row, feature)
        update_tile = tl.load(update + place, mask=mask, other=0.0).to(tl.float32)
        target = written + _place(written_strides[0], written_strides[1], written_strides[3], outer, row, feature)
        for i in tl.static_range(N):
            total = b[i][:, None] * update_tile
            for j in tl.static_range(N):
                total += m[i * N + j][:, None] * tiles[j]
            tl.store(target, total.to(written.dtype.element_ty), mask=mask)
            target += written_strides[2]


@triton.jit
def _write_backward(
    grad,
    streams,
    update,
    mixing,
    weights,
    by_streams,
    by_update,
    by_mixing,
    by_weights,
    grad_strides,
    streams_strides,
    update_strides,
    mixing_strides,
    weights_strides,
    by_streams_strides,
    by_update_strides,
    rows,
    features,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rows: the gradients of their streams, updates, matrices and weights."""
    outer, row, is_row = _rows(rows, ROWS)
    # Column after column, since one stream at a time is held beside all gradients.
    m = _matrix(
        mixing, (mixing_strides[0], mixing_strides[1], mixing_strides[3], mixing_strides[2]), outer, row, is_row, N
    )
    b = _vector(weights, weights_strides, outer, row, is_row, N)
    with_update = (tl.zeros([ROWS, BLOCK], tl.float32),) * N
    with_streams = (tl.zeros([ROWS, BLOCK], tl.float32),) * (N * N)
    for first in range(0, features, BLOCK):
        feature, mask = _features(first, features, is_row, BLOCK)
        grads = _tiles(grad, grad_strides, outer, row, feature, mask, N)
        place = _place(update_strides[0], update_strides[1], update_strides[2], outer, row, feature)
        update_tile = tl.load(update + place, mask=mask, other=0.0).to(tl.float32)
        total = b[0][:, None] * grads[0]
        for i in tl.static_range(1, N):
            total += b[i][:, None] * grads[i]
        place = _place(by_update_strides[0], by_update_strides[1], by_update_strides[2], outer, row, feature)
        tl.store(by_update + place, total.to(by_update.dtype.element_ty), mask=mask)
        with_update = _add_products(with_update, 0, grads, update_tile, N)
        source = streams + _place(streams_strides[0], streams_strides[1], streams_strides[3], outer, row, feature)
        target = by_streams + _place(
            by_streams_strides[0], by_streams_strides[1], by_streams_strides[3], outer, row, feature
        )
        sums = ()
        for j in tl.static_range(N):
            tile = tl.load(source, mask=mask, other=0.0).to(tl.float32)
            total = m[j * N][:, None] * grads[0]
            for i in tl.static_range(1, N):
                total += m[j * N + i][:, None] * grads[i]
            tl.store(target, total.to(by_streams.dtype.element_ty), mask=mask)
            sums += _add_products(with_streams, j * N, grads, tile, N)
            source += streams_strides[2]
            target += by_streams_strides[2]
        with_streams = sums
    _store_sums(by_weights + (outer * rows + row) * N, with_update, is_row, N)
    # by_mixing is stored column after column too: its launcher transposes the view.
    _store_sums(by_mixing + (outer * rows + row) * (N * N), with_streams, is_row, N * N)


@triton.jit
def _add_products(sums, first, grads, tile, N: tl.constexpr):
    """``sums`` from ``first`` on, each with the product of a gradient and a tile added."""
    added = ()
    for i in tl.static_range(N):
        added += (sums[first + i] + grads[i] * tile,)
    return added


@triton.jit
def _store_sums(target, products, is_row, COUNT: tl.constexpr):
    """Sums over the features, side by side for each row."""
    for i in tl.static_range(COUNT):
        tl.store(target + i, tl.sum(products[i], 1).to(target.dtype.element_ty), mask=is_row)


@triton.jit
def _rows(rows, ROWS: tl.constexpr):
    """The rows of this program: their outer index, their indices inside it, and which of them exist."""
    program = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(rows, ROWS)
    row = (program % tiles) * ROWS + tl.arange(0, ROWS)
    return program // tiles, row, row < rows


@triton.jit
def _features(first, features, is_row, BLOCK: tl.constexpr):
    """The features of a tile, and which of its elements exist."""
    feature = first + tl.arange(0, BLOCK)
    return feature.to(tl.int64), is_row[:, None] & (feature < features)[None, :]


@triton.jit
def _place(outer_stride, row_stride, feature_stride, outer, row, feature):
    """Offsets of a tile."""
    return outer * outer_stride + (row * row_stride)[:, None] + (feature * feature_stride)[None, :]


@triton.jit
def _tiles(streams, strides, outer, row, feature, mask, N: tl.constexpr):
    """The tile of each stream."""
    source = streams + _place(strides[0], strides[1], strides[3], outer, row, feature)
    tiles = ()
    for _ in tl.static_range(N):
        tiles += (tl.load(source, mask=mask, other=0.0).to(tl.float32),)
        source += strides[2]
    return tiles


@triton.jit
def _vector(weights, strides, outer, row, is_row, N: tl.constexpr):
    """The n weights of each row."""
    source = weights + (outer * strides[0] + row * strides[1])
    values = ()
    for _ in tl.static_range(N):
        values += (tl.load(source, mask=is_row, other=0.0).to(tl.float32),)
        source += strides[2]
    return values


@triton.jit
def _matrix(mixing, strides, outer, row, is_row, N: tl.constexpr):
    """The n x n numbers of each row, row by row of the matrix."""
    source = mixing + (outer * strides[0] + row * strides[1])
    values = ()
    for _ in tl.static_range(N):
        entry = source
        for _ in tl.static_range(N):
            values += (tl.load(entry, mask=is_row, other=0.0).to(tl.float32),)
            entry += strides[3]
        source += strides[2]
    return values


def read(streams: Tensor, weights: Tensor) -> Tensor:
    """``sum_i w_i X_i``, in the order of memory of the streams."""
    *places, n, features = streams.shape
    streams, weights = _as_rows(streams, weights)
    x = torch.empty_like(streams[:, :, 0])
    grid, sizes = _launch(streams, n, n)
    with device_of(streams):
        _read[grid](*(streams, weights, x), *_strides(streams, weights, x), **sizes)
    return x.view(*places, features)


def read_backward(grad: Tensor, streams: Tensor, weights: Tensor) -> ReadGradients:
    """Gradients of both operands, that of the streams in their order of memory."""
    shapes, n = (streams.shape, weights.shape), streams.shape[-2]
    streams, weights, grad = _as_rows(streams, weights, grad)
    by_streams = torch.empty_like(streams)
    by_weights = weights.new_empty(weights.shape)
    grid, sizes = _launch(streams, 2 * n, n)
    with device_of(streams):
        _read_backward[grid](
            *(grad, streams, weights, by_streams, by_weights),
            *_strides(grad, streams, weights, by_streams),
            **sizes,
        )
    return ReadGradients(by_streams.view(shapes[0]), by_weights.view(shapes[1]))


def write(streams: Tensor, update: Tensor, mixing: Tensor, weights: Tensor) -> Tensor:
    """``M X + b (outer) u``, in the order of memory of the streams."""
    shape, n = streams.shape, streams.shape[-2]
    streams, update, mixing, weights = _as_rows(streams, update, mixing, weights)
    written = torch.empty_like(streams)
    grid, sizes = _launch(streams, n + 1, n * n + n)
    with device_of(streams):
        _write[grid](
            *(streams, update, mixing, weights, written),
            *_strides(streams, update, mixing, weights, written),
            **sizes,
        )
    return written.view(shape)


def write_backward(grad: Tensor, streams: Tensor, update: Tensor, mixing: Tensor, weights: Tensor) -> WriteGradients:
    """Gradients of all operands, those of streams and update in the order of memory of each."""
    shapes, n = (streams.shape, update.shape, mixing.shape, weights.shape), streams.shape[-2]
    streams, update, mixing, weights, grad = _as_rows(streams, update, mixing, weights, grad)
    by_streams, by_update = torch.empty_like(streams), torch.empty_like(update)
    by_mixing, by_weights = mixing.new_empty(mixing.shape), weights.new_empty(weights.shape)
    grid, sizes = _launch(streams, n * n + 2 * n, n * n + n)
    with device_of(streams):
        _write_backward[grid](
            *(grad, streams, update, mixing, weights, by_streams, by_update, by_mixing, by_weights),
            *_strides(grad, streams, update, mixing, weights, by_streams, by_update),
            **sizes,
        )
    return WriteGradients(
        by_streams.view(shapes[0]), by_update.view(shapes[1]), by_mixing.view(shapes[2]).mT, by_weights.view(shapes[3])
    )


def _as_rows(streams: Tensor, *others: Tensor) -> list[Tensor]:
    """All operands with their places, the axes before the streams, as two: views where memory allows it.

    Two axes serve maps with channels first, whose samples and pixels have the streams between them.
    """
    places = streams.ndim - 2
    split = _split(streams.shape[:places], streams.stride()[:places])
    outer, rows = prod(streams.shape[:split]), prod(streams.shape[split:places])
    return [tensor.reshape(outer, rows, *tensor.shape[places:]) for tensor in (streams, *others)]


def _split(sizes: Sequence[int], strides: Sequence[int]) -> int:
    """How many of the axes go first, so that the rest lies at one stride; 0 where no split of two makes a view."""
    axes = [axis for axis, size in enumerate(sizes) if size > 1]
    breaks = [inner for outer, inner in pairwise(axes) if strides[outer] != strides[inner] * sizes[inner]]
    return breaks[0] if len(breaks) == 1 else 0


def _strides(*tensors: Tensor) -> list[tuple[int, ...]]:
    return [tensor.stride() for tensor in tensors]


def _launch(streams: Tensor, held: int, held_a_row: int) -> tuple[tuple[int], dict[str, Any]]:
    """Grid, sizes of tiles and warps, for streams [outer, rows, n, features].

    ``held`` counts the tiles held at once, ``held_a_row`` the numbers held for a row. Threads along the features share
    their row; those along the rows have one each.
    """
    outer, rows, n, features = streams.shape
    is_along_features = streams.stride(3) <= streams.stride(1)
    a_thread = _power_of_2(HELD // (held if is_along_features else held + held_a_row), A_THREAD)
    features_a_warp = 32 * a_thread if is_along_features else a_thread
    warps = _power_of_2(features // (STEPS * features_a_warp), WARPS)
    tile = 32 * a_thread * warps
    if is_along_features:
        block = min(tile, triton.next_power_of_2(features))
        block_rows = min(tile // block, triton.next_power_of_2(rows))
    else:
        block_rows = min(PIXELS, triton.next_power_of_2(rows))
        block = min(tile // block_rows, triton.next_power_of_2(features))
    sizes = {"rows": rows, "features": features, "N": n, "ROWS": block_rows, "BLOCK": block}
    return (outer * triton.cdiv(rows, block_rows),), {**sizes, "num_warps": warps, **FUSED}


def _power_of_2(number: int, most: int) -> int:
    """The largest power of two up to both, and one at least."""
    return 1 << (max(1, min(number, most)).bit_length() - 1)
