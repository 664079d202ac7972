"""Fused kernels for the orthogonal update: each operand is read once and each result written once.

Every kernel sees dense operands as ``[outer, length, inner]`` (see ``layout.py``) and computes in float32 with one
rounding out. A program owns whole vectors, so that no sum is shared: results are bit-identical from run to run.

- inner 1 (tokens, channels_last maps): a program holds a tile of whole vectors, read along the vector;
- inner > 1 (maps with channels first): a tile of neighbouring pixels, read along the pixels, with a loop over
  channels that is gone through twice, the second time out of the cache;
- inner 1 and a length beyond ``WHOLE`` (global products): the vector is split between programs, which leave partial
  sums; a second launch adds them, in one order, and writes.

Offsets between tiles are 64-bit integers; those inside a tile 32-bit, unless it spans a map of 2^31 elements.
"""

# mypy: disable-error-code=no-untyped-def

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from orthostream.ops.launch import FUSED, MOST_WARPS, device_of
from orthostream.ops.orthogonal_update.closed_form import Gradients, Kept
from orthostream.ops.orthogonal_update.layout import Layout, coefficients_like, dense, in_layout_of, layout
from orthostream.ops.orthogonal_update.reference import Rule, Weight

# Longest vector that one program holds in registers.
WHOLE = 16384
# Elements of one step through a long vector.
STEP = 4096
# Elements of a tile that several vectors share. Small enough that a strided tile, whose pixels need not be aligned and
# then have an address each, fits into registers.
TILE = 2048
# Pixels of a strided tile: 64 bytes of a half-precision map, 128 of a float32 one.
PIXELS = 32
# Most programs that one long vector is split between.
SPLITS = 1024
# From this distance on, offsets inside a tile need 64 bits as well.
FAR = 2**31


@triton.jit
def _forward(
    x,
    update,
    y,
    coefficient,
    strength,
    stream_weight,
    update_weight,
    vectors,
    length,
    inner,
    eps,
    CLAMP: tl.constexpr,
    STRIDED: tl.constexpr,
    FAR: tl.constexpr,
    BLOCK_VECTORS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Tile of vectors: coefficient and result. ``vectors`` counts all of them, or those of one outer index."""
    k = 1.0 if strength is None else tl.load(strength).to(tl.float32)
    p = 1.0 if stream_weight is None else tl.load(stream_weight).to(tl.float32)
    q = 1.0 if update_weight is None else tl.load(update_weight).to(tl.float32)
    start, vector, is_vector, offsets, step = _tile(vectors, length, inner, STRIDED, FAR, BLOCK_VECTORS, BLOCK)
    place = tl.arange(0, BLOCK)[None, :]
    x += start
    update += start
    y += start
    if STRIDED:
        dots = tl.zeros([BLOCK_VECTORS, BLOCK], tl.float32)
        squares = tl.zeros([BLOCK_VECTORS, BLOCK], tl.float32)
        shift = step * 0
        for first in range(0, length, BLOCK):
            mask = is_vector[:, None] & (first + place < length)
            x_tile = tl.load(x + shift + offsets, mask=mask, other=0.0).to(tl.float32)
            dots += x_tile * tl.load(update + shift + offsets, mask=mask, other=0.0).to(tl.float32)
            squares += x_tile * x_tile
            shift += step
        dot = tl.sum(dots, 1)
        square = tl.sum(squares, 1)
    else:
        mask = is_vector[:, None] & (place < length)
        x_tile = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
        update_tile = tl.load(update + offsets, mask=mask, other=0.0).to(tl.float32)
        dot = tl.sum(x_tile * update_tile, 1)
        square = tl.sum(x_tile * x_tile, 1)
    s = dot / (tl.maximum(square, eps) if CLAMP else square + eps)
    tl.store(coefficient + vector, s, mask=is_vector)
    w = (p - k * s)[:, None]
    if STRIDED:
        shift = step * 0
        for first in range(0, length, BLOCK):
            mask = is_vector[:, None] & (first + place < length)
            x_tile = tl.load(x + shift + offsets, mask=mask, other=0.0).to(tl.float32)
            update_tile = tl.load(update + shift + offsets, mask=mask, other=0.0).to(tl.float32)
            tl.store(y + shift + offsets, (q * update_tile + w * x_tile).to(y.dtype.element_ty), mask=mask)
            shift += step
    else:
        tl.store(y + offsets, (q * update_tile + w * x_tile).to(y.dtype.element_ty), mask=mask)


@triton.jit
def _backward(
    grad,
    x,
    other,
    coefficient,
    grad_x,
    grad_update,
    sums,
    strength,
    stream_weight,
    update_weight,
    vectors,
    length,
    inner,
    eps,
    CLAMP: tl.constexpr,
    IS_RESULT: tl.constexpr,
    STRIDED: tl.constexpr,
    FAR: tl.constexpr,
    BLOCK_VECTORS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Tile of vectors: both gradients, and this program's share of the gradients of p, q and k where asked for."""
    k = 1.0 if strength is None else tl.load(strength).to(tl.float32)
    p = 1.0 if stream_weight is None else tl.load(stream_weight).to(tl.float32)
    q = 1.0 if update_weight is None else tl.load(update_weight).to(tl.float32)
    start, vector, is_vector, offsets, step = _tile(vectors, length, inner, STRIDED, FAR, BLOCK_VECTORS, BLOCK)
    place = tl.arange(0, BLOCK)[None, :]
    grad += start
    x += start
    other += start
    grad_x += start
    grad_update += start
    s = tl.load(coefficient + vector, mask=is_vector, other=0.0)
    by_update = 0.0
    if STRIDED:
        pulls = tl.zeros([BLOCK_VECTORS, BLOCK], tl.float32)
        squares = tl.zeros([BLOCK_VECTORS, BLOCK], tl.float32)
        products = tl.zeros([BLOCK_VECTORS, BLOCK], tl.float32)
        shift = step * 0
        for first in range(0, length, BLOCK):
            mask = is_vector[:, None] & (first + place < length)
            x_tile = tl.load(x + shift + offsets, mask=mask, other=0.0).to(tl.float32)
            grad_tile = tl.load(grad + shift + offsets, mask=mask, other=0.0).to(tl.float32)
            pulls += x_tile * grad_tile
            squares += x_tile * x_tile
            if sums is not None and not IS_RESULT:
                products += grad_tile * tl.load(other + shift + offsets, mask=mask, other=0.0).to(tl.float32)
            shift += step
        pull = tl.sum(pulls, 1)
        square = tl.sum(squares, 1)
        if sums is not None and not IS_RESULT:
            by_update = tl.sum(tl.sum(products, 1), 0)
    else:
        mask = is_vector[:, None] & (place < length)
        x_tile = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
        grad_tile = tl.load(grad + offsets, mask=mask, other=0.0).to(tl.float32)
        other_tile = tl.load(other + offsets, mask=mask, other=0.0).to(tl.float32)
        pull = tl.sum(x_tile * grad_tile, 1)
        square = tl.sum(x_tile * x_tile, 1)
        if sums is not None and not IS_RESULT:
            by_update = tl.sum(tl.sum(grad_tile * other_tile, 1), 0)
    w, a, stretch = _slopes(s, pull, square, k, p, eps, CLAMP, IS_RESULT)
    w, a, stretch = w[:, None], a[:, None], stretch[:, None]
    if STRIDED:
        shift = step * 0
        for first in range(0, length, BLOCK):
            mask = is_vector[:, None] & (first + place < length)
            x_tile = tl.load(x + shift + offsets, mask=mask, other=0.0).to(tl.float32)
            grad_tile = tl.load(grad + shift + offsets, mask=mask, other=0.0).to(tl.float32)
            other_tile = tl.load(other + shift + offsets, mask=mask, other=0.0).to(tl.float32)
            by_x = w * grad_tile - a * (other_tile - stretch * x_tile)
            tl.store(grad_x + shift + offsets, by_x.to(grad_x.dtype.element_ty), mask=mask)
            by_u = q * grad_tile - a * x_tile
            tl.store(grad_update + shift + offsets, by_u.to(grad_update.dtype.element_ty), mask=mask)
            shift += step
    else:
        by_x = w * grad_tile - a * (other_tile - stretch * x_tile)
        tl.store(grad_x + offsets, by_x.to(grad_x.dtype.element_ty), mask=mask)
        by_u = q * grad_tile - a * x_tile
        tl.store(grad_update + offsets, by_u.to(grad_update.dtype.element_ty), mask=mask)
    if sums is not None:
        _store_sums(sums, tl.program_id(0), tl.sum(pull, 0), by_update, tl.sum(s * pull, 0))


@triton.jit
def _partial_sums(x, other, third, sums, length, span, WITH_THIRD: tl.constexpr, BLOCK: tl.constexpr):
    """A span of one long vector: its share of <x, other>, <x, x> and, where wanted, <other, third>."""
    row, part = tl.program_id(0), tl.program_id(1)
    start = row.to(tl.int64) * length
    dots = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    products = tl.zeros([BLOCK], tl.float32)
    first = part.to(tl.int64) * span
    end = tl.minimum(first + span, length)
    for at in range(first, end, BLOCK):
        place = at + tl.arange(0, BLOCK)
        mask = place < end
        x_tile = tl.load(x + start + place, mask=mask, other=0.0).to(tl.float32)
        other_tile = tl.load(other + start + place, mask=mask, other=0.0).to(tl.float32)
        dots += x_tile * other_tile
        squares += x_tile * x_tile
        if WITH_THIRD:
            products += other_tile * tl.load(third + start + place, mask=mask, other=0.0).to(tl.float32)
    sums += (row.to(tl.int64) * tl.num_programs(1) + part) * 3
    tl.store(sums, tl.sum(dots, 0))
    tl.store(sums + 1, tl.sum(squares, 0))
    tl.store(sums + 2, tl.sum(products, 0))


@triton.jit
def _forward_long(
    x,
    update,
    y,
    coefficient,
    partial,
    strength,
    stream_weight,
    update_weight,
    length,
    span,
    eps,
    CLAMP: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A span of one long vector, whose partial sums are all there: coefficient and result."""
    k = 1.0 if strength is None else tl.load(strength).to(tl.float32)
    p = 1.0 if stream_weight is None else tl.load(stream_weight).to(tl.float32)
    q = 1.0 if update_weight is None else tl.load(update_weight).to(tl.float32)
    row, part = tl.program_id(0), tl.program_id(1)
    dot, square, _ = _total(partial, row, PARTS)
    s = dot / (tl.maximum(square, eps) if CLAMP else square + eps)
    if part == 0:
        tl.store(coefficient + row, s)
    w = p - k * s
    start = row.to(tl.int64) * length
    first = part.to(tl.int64) * span
    end = tl.minimum(first + span, length)
    for at in range(first, end, BLOCK):
        place = at + tl.arange(0, BLOCK)
        mask = place < end
        x_tile = tl.load(x + start + place, mask=mask, other=0.0).to(tl.float32)
        update_tile = tl.load(update + start + place, mask=mask, other=0.0).to(tl.float32)
        tl.store(y + start + place, (q * update_tile + w * x_tile).to(y.dtype.element_ty), mask=mask)


@triton.jit
def _backward_long(
    grad,
    x,
    other,
    coefficient,
    grad_x,
    grad_update,
    sums,
    partial,
    strength,
    stream_weight,
    update_weight,
    length,
    span,
    eps,
    CLAMP: tl.constexpr,
    IS_RESULT: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A span of one long vector, whose partial sums are all there: both gradients, and those of the weights."""
    k = 1.0 if strength is None else tl.load(strength).to(tl.float32)
    p = 1.0 if stream_weight is None else tl.load(stream_weight).to(tl.float32)
    q = 1.0 if update_weight is None else tl.load(update_weight).to(tl.float32)
    row, part = tl.program_id(0), tl.program_id(1)
    pull, square, by_update = _total(partial, row, PARTS)
    s = tl.load(coefficient + row)
    w, a, stretch = _slopes(s, pull, square, k, p, eps, CLAMP, IS_RESULT)
    # Two conditions: the first is settled at compile time, the second on the device.
    if sums is not None:  # noqa: SIM102
        if part == 0:
            _store_sums(sums, row, pull, by_update, s * pull)
    start = row.to(tl.int64) * length
    first = part.to(tl.int64) * span
    end = tl.minimum(first + span, length)
    for at in range(first, end, BLOCK):
        place = at + tl.arange(0, BLOCK)
        mask = place < end
        x_tile = tl.load(x + start + place, mask=mask, other=0.0).to(tl.float32)
        grad_tile = tl.load(grad + start + place, mask=mask, other=0.0).to(tl.float32)
        other_tile = tl.load(other + start + place, mask=mask, other=0.0).to(tl.float32)
        by_x = w * grad_tile - a * (other_tile - stretch * x_tile)
        tl.store(grad_x + start + place, by_x.to(grad_x.dtype.element_ty), mask=mask)
        by_u = q * grad_tile - a * x_tile
        tl.store(grad_update + start + place, by_u.to(grad_update.dtype.element_ty), mask=mask)


@triton.jit
def _tile(
    vectors, length, inner, STRIDED: tl.constexpr, FAR: tl.constexpr, BLOCK_VECTORS: tl.constexpr, BLOCK: tl.constexpr
):
    """Where this program's tile lies: its first element, its vectors, offsets inside, and from step to step."""
    program = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK_VECTORS)
    place = tl.arange(0, BLOCK)[None, :]
    if STRIDED:
        tiles = tl.cdiv(vectors, BLOCK_VECTORS)
        outer = program // tiles
        first = (program % tiles) * BLOCK_VECTORS
        start = outer * length * inner + first
        vector = outer * vectors + first + lane
        offsets = lane[:, None] + (place.to(tl.int64) if FAR else place) * inner
        step = tl.full([], BLOCK, tl.int64) * inner
    else:
        first = program * BLOCK_VECTORS
        start = first * length
        vector = first + lane
        offsets = lane[:, None] * length + place
        step = tl.full([], BLOCK, tl.int64)
    return start, vector, first + lane < vectors, offsets, step


@triton.jit
def _slopes(s, pull, square, k, p, eps, CLAMP: tl.constexpr, IS_RESULT: tl.constexpr):
    """``w``, ``a``, and the factor in ``u - 2 s x = other - stretch x``."""
    w = p - k * s
    stretch = 2 * s
    if CLAMP:
        a = k * pull / tl.maximum(square, eps)
        stretch = tl.where(square > eps, stretch, 0.0)
    else:
        a = k * pull / (square + eps)
    if IS_RESULT:
        stretch += w
    return w, a, stretch


@triton.jit
def _total(partial, row, PARTS: tl.constexpr):
    """The partial sums of one vector added up, in an order that does not depend on who finished first."""
    SIZE: tl.constexpr = triton.next_power_of_2(PARTS)
    part = tl.arange(0, SIZE)
    place = (row.to(tl.int64) * PARTS + part) * 3
    first = tl.sum(tl.load(partial + place, mask=part < PARTS, other=0.0), 0)
    second = tl.sum(tl.load(partial + place + 1, mask=part < PARTS, other=0.0), 0)
    third = tl.sum(tl.load(partial + place + 2, mask=part < PARTS, other=0.0), 0)
    return first, second, third


@triton.jit
def _store_sums(sums, place, by_stream_weight, by_update_weight, by_strength):
    sums += place.to(tl.int64) * 3
    tl.store(sums, by_stream_weight)
    tl.store(sums + 1, by_update_weight)
    tl.store(sums + 2, -by_strength)


def forward(x: Tensor, update: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """The result ``y`` and the coefficient ``s``; operands in another order of memory than the stream are copied."""
    x = dense(x)
    shape = _layout(x, rule)
    update = in_layout_of(update, x)
    y = torch.empty_like(x)
    coefficient = coefficients_like(x, rule.dim, torch.float32)
    weights = _on(x, rule)
    with device_of(x):
        if shape.inner == 1 and shape.length > WHOLE:
            parts, span, partial = _split(x, shape)
            _partial_sums[shape.outer, parts](
                x, update, x, partial, shape.length, span, WITH_THIRD=False, BLOCK=STEP, **FUSED
            )
            _forward_long[shape.outer, parts](
                *(x, update, y, coefficient, partial, *weights, shape.length, span, rule.eps),
                CLAMP=rule.clamp,
                PARTS=parts,
                BLOCK=STEP,
                **FUSED,
            )
        else:
            grid, options = _launch(shape)
            _forward[grid](
                *(x, update, y, coefficient, *weights, _vectors(shape), shape.length, shape.inner, rule.eps),
                CLAMP=rule.clamp,
                **options,
            )
    return y, coefficient


def backward(grad: Tensor, kept: Kept, rule: Rule, wants_weights: tuple[bool, bool, bool]) -> Gradients:
    """Gradients of stream and update, and of the weights that ask for one."""
    x = dense(kept.x)
    shape = _layout(x, rule)
    grad, other = in_layout_of(grad, x), in_layout_of(kept.other, x)
    grad_x = torch.empty_like(x)
    grad_update = torch.empty_like(x, dtype=kept.update_dtype)
    weights = _on(x, rule)
    wants_any = any(wants_weights)
    with device_of(x):
        if shape.inner == 1 and shape.length > WHOLE:
            parts, span, partial = _split(x, shape)
            sums = x.new_empty((shape.outer, 3), dtype=torch.float32) if wants_any else None
            needs_product = wants_any and not kept.is_result
            _partial_sums[shape.outer, parts](
                x, grad, other, partial, shape.length, span, WITH_THIRD=needs_product, BLOCK=STEP, **FUSED
            )
            _backward_long[shape.outer, parts](
                *(grad, x, other, kept.coefficient, grad_x, grad_update, sums, partial, *weights),
                *(shape.length, span, rule.eps),
                CLAMP=rule.clamp,
                IS_RESULT=kept.is_result,
                PARTS=parts,
                BLOCK=STEP,
                **FUSED,
            )
        else:
            grid, options = _launch(shape)
            sums = x.new_empty((grid[0], 3), dtype=torch.float32) if wants_any else None
            _backward[grid](
                *(grad, x, other, kept.coefficient, grad_x, grad_update, sums, *weights),
                *(_vectors(shape), shape.length, shape.inner, rule.eps),
                CLAMP=rule.clamp,
                IS_RESULT=kept.is_result,
                **options,
            )
    if sums is None:
        return Gradients(grad_x, grad_update)
    totals = sums.sum(0).unbind()
    return Gradients(
        grad_x, grad_update, *(total if wanted else None for total, wanted in zip(totals, wants_weights, strict=True))
    )


def _layout(x: Tensor, rule: Rule) -> Layout:
    found = layout(x.shape, x.stride(), rule.dim)
    assert found is not None, "callers ask `supports` first"
    return found


def _vectors(shape: Layout) -> int:
    return shape.inner if shape.inner > 1 else shape.outer


def _launch(shape: Layout) -> tuple[tuple[int], dict[str, Any]]:
    """Grid, sizes of tiles and warps: 16 elements of each operand a thread along a vector, 8 across."""
    if shape.inner > 1:
        block_vectors = min(PIXELS, triton.next_power_of_2(shape.inner))
        block = min(TILE // block_vectors, triton.next_power_of_2(shape.length))
        programs, a_thread = shape.outer * triton.cdiv(shape.inner, block_vectors), 8
    else:
        block = triton.next_power_of_2(shape.length)
        block_vectors = max(1, TILE // block)
        programs, a_thread = triton.cdiv(shape.outer, block_vectors), 16
    sizes = {"STRIDED": shape.inner > 1, "BLOCK_VECTORS": block_vectors, "BLOCK": block}
    is_far = shape.inner * block >= FAR
    warps = min(MOST_WARPS, max(4, block_vectors * block // (32 * a_thread)))
    return (programs,), {**sizes, "FAR": is_far, "num_warps": warps, **FUSED}


def _split(x: Tensor, shape: Layout) -> tuple[int, int, Tensor]:
    """Programs a vector, elements a program, and place for their sums."""
    span = STEP * triton.cdiv(shape.length, STEP * SPLITS)
    parts = triton.cdiv(shape.length, span)
    return parts, span, x.new_empty((shape.outer, parts, 3), dtype=torch.float32)


def _on(x: Tensor, rule: Rule) -> tuple[Tensor | None, ...]:
    """Strength, stream weight and update weight as tensors on the device, None for one."""
    return tuple(weight_on(x, weight) for weight in (rule.strength, rule.stream_weight, rule.update_weight))


def weight_on(x: Tensor, weight: Weight) -> Tensor | None:
    """A weight as a tensor on the device of the stream, None for one."""
    if isinstance(weight, Tensor):
        return weight.to(x.device)
    return None if weight == 1 else torch.full((), weight, dtype=torch.float32, device=x.device)
