"""Fused kernels for the orthogonal update and the norm behind it: each operand is read once, each result written once.

The norm sees the stream as it is stored, rounded. Backward computes mean and scale again from the stream, which is
kept, so that the norm keeps nothing. Its programs walk over the vectors where the norm has parameters, and add up their
gradients in registers; the sum over programs is taken in one order, so results are bit-identical from run to run.

Arithmetic is float32 with one rounding out. Offsets between tiles are 64-bit integers, those inside a tile 32-bit.
"""

# mypy: disable-error-code=no-untyped-def

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from orthostream.ops.launch import FUSED, MOST_WARPS, device_of
from orthostream.ops.orthogonal_update.closed_form import Kept
from orthostream.ops.orthogonal_update.layout import coefficients_like, dense, in_layout_of
from orthostream.ops.orthogonal_update.reference import Rule
from orthostream.ops.orthogonal_update.triton import weight_on
from orthostream.ops.update_norm.closed_form import Gradients
from orthostream.ops.update_norm.reference import Norm

# Elements of a tile that several vectors share.
FORWARD_TILE = 2048
BACKWARD_TILE = 1024
# Elements of a tile a warp. Backward holds more tiles at once.
FORWARD_SHARE = 512
BACKWARD_SHARE = 256
# Warps on each processor where programs walk over the vectors: as many as fit with 128 registers a thread.
RESIDENT_WARPS = 16
# Stands for the processors of a device in the interpreter.
INTERPRETED_PROCESSORS = 1


@triton.jit
def _forward(
    x,
    update,
    y,
    z,
    coefficient,
    strength,
    weight,
    bias,
    rows,
    width,
    eps,
    norm_eps,
    IS_RMS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Tile of vectors: coefficient, stream after the update, and its norm."""
    k = 1.0 if strength is None else tl.load(strength).to(tl.float32)
    start, row, offsets, mask, place = _tile(tl.program_id(0), rows, width, ROWS, BLOCK)
    x_tile = tl.load(x + start + offsets, mask=mask, other=0.0).to(tl.float32)
    update_tile = tl.load(update + start + offsets, mask=mask, other=0.0).to(tl.float32)
    s = tl.sum(x_tile * update_tile, 1) / (tl.sum(x_tile * x_tile, 1) + eps)
    tl.store(coefficient + row, s, mask=row < rows)
    stored = (update_tile + (1 - k * s)[:, None] * x_tile).to(y.dtype.element_ty)
    tl.store(y + start + offsets, stored, mask=mask)
    normed, _ = _normed(stored.to(tl.float32), mask, width, norm_eps, IS_RMS)
    if weight is not None:
        normed *= tl.load(weight + place, mask=place < width, other=0.0).to(tl.float32)
    if bias is not None:
        normed += tl.load(bias + place, mask=place < width, other=0.0).to(tl.float32)
    tl.store(z + start + offsets, normed.to(z.dtype.element_ty), mask=mask)


@triton.jit
def _backward(
    grad_y,
    grad_z,
    x,
    y,
    coefficient,
    grad_x,
    grad_update,
    by_strength,
    by_weight,
    by_bias,
    strength,
    weight,
    rows,
    width,
    eps,
    norm_eps,
    IS_RMS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Every tile of vectors that falls to this program: gradients of stream and update, its share of the others."""
    k = 1.0 if strength is None else tl.load(strength).to(tl.float32)
    program = tl.program_id(0)
    place = tl.arange(0, BLOCK)[None, :]
    if by_weight is not None:
        weight_sums = tl.zeros([ROWS, BLOCK], tl.float32)
    if by_bias is not None:
        bias_sums = tl.zeros([ROWS, BLOCK], tl.float32)
    strength_sums = tl.zeros([ROWS], tl.float32)
    # Pointers and places computed before the loop would be kept in registers throughout it, and spill.
    for tile in tl.range(program, tl.cdiv(rows, ROWS), tl.num_programs(0), disable_licm=True):
        start, row, offsets, mask, _ = _tile(tile, rows, width, ROWS, BLOCK)
        y_tile = tl.load(y + start + offsets, mask=mask, other=0.0).to(tl.float32)
        normed, scale = _normed(y_tile, mask, width, norm_eps, IS_RMS)
        grad = tl.load(grad_z + start + offsets, mask=mask, other=0.0).to(tl.float32)
        if by_weight is not None:
            weight_sums += grad * normed
        if by_bias is not None:
            bias_sums += grad
        if weight is not None:
            grad *= tl.load(weight + place, mask=place < width, other=0.0).to(tl.float32)
        shift = normed * (tl.sum(grad * normed, 1) / width)[:, None]
        if not IS_RMS:
            shift += (tl.sum(grad, 1) / width)[:, None]
        # The scale of vectors beyond the last may be infinite.
        grad = tl.where(mask, scale[:, None] * (grad - shift), 0.0)
        if grad_y is not None:
            grad += tl.load(grad_y + start + offsets, mask=mask, other=0.0).to(tl.float32)
        x_tile = tl.load(x + start + offsets, mask=mask, other=0.0).to(tl.float32)
        s = tl.load(coefficient + row, mask=row < rows, other=0.0)
        pull = tl.sum(x_tile * grad, 1)
        strength_sums -= s * pull
        a = (k * pull / (tl.sum(x_tile * x_tile, 1) + eps))[:, None]
        w = (1 - k * s)[:, None]
        by_x = w * grad - a * (y_tile - (w + 2 * s[:, None]) * x_tile)
        tl.store(grad_x + start + offsets, by_x.to(grad_x.dtype.element_ty), mask=mask)
        tl.store(grad_update + start + offsets, (grad - a * x_tile).to(grad_update.dtype.element_ty), mask=mask)
    if by_strength is not None:
        tl.store(by_strength + program, tl.sum(strength_sums, 0))
    own = program.to(tl.int64) * width + place
    if by_weight is not None:
        tl.store(by_weight + own, tl.sum(weight_sums, 0)[None, :], mask=place < width)
    if by_bias is not None:
        tl.store(by_bias + own, tl.sum(bias_sums, 0)[None, :], mask=place < width)


@triton.jit
def _tile(tile, rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """First element of a tile, its vectors, offsets inside, which of them exist, and places in a vector."""
    place = tl.arange(0, BLOCK)[None, :]
    lane = tl.arange(0, ROWS)
    first = tl.full([], ROWS, tl.int64) * tile
    row = first + lane
    return first * width, row, lane[:, None] * width + place, (row < rows)[:, None] & (place < width), place


@triton.jit
def _normed(y_tile, mask, width, norm_eps, IS_RMS: tl.constexpr):
    """The normed vectors before weight and bias, zero outside of the mask, and the scale of each."""
    centred = y_tile
    if not IS_RMS:
        centred = tl.where(mask, y_tile - (tl.sum(y_tile, 1) / width)[:, None], 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) / width + norm_eps)
    return tl.where(mask, centred * scale[:, None], 0.0), scale


def forward(x: Tensor, update: Tensor, rule: Rule, norm: Norm, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The stream ``y``, its norm in ``dtype`` and the coefficient ``s``."""
    x = dense(x)
    update = in_layout_of(update, x)
    y, z = torch.empty_like(x), torch.empty_like(x, dtype=dtype)
    coefficient = coefficients_like(x, -1, torch.float32)
    width = x.shape[-1]
    rows = x.numel() // width
    block, together, warps = _sizes(width, FORWARD_TILE, FORWARD_SHARE)
    with device_of(x):
        _forward[(triton.cdiv(rows, together),)](
            *(x, update, y, z, coefficient, weight_on(x, rule.strength), *_in_one_piece(norm)),
            *(rows, width, rule.eps, norm.eps),
            IS_RMS=norm.kind == "rms",
            ROWS=together,
            BLOCK=block,
            num_warps=warps,
            **FUSED,
        )
    return y, z, coefficient


def backward(
    grad_y: Tensor | None, grad_z: Tensor, kept: Kept, rule: Rule, norm: Norm, wants: tuple[bool, bool, bool]
) -> Gradients:
    """Gradients of stream and update, and of strength, weight and bias where they are wanted."""
    x = dense(kept.x)
    grad_y = None if grad_y is None else in_layout_of(grad_y, x)
    grad_z, y = in_layout_of(grad_z, x), in_layout_of(kept.other, x)
    grad_x, grad_update = torch.empty_like(x), torch.empty_like(x, dtype=kept.update_dtype)
    width = x.shape[-1]
    rows = x.numel() // width
    block, together, warps = _sizes(width, BACKWARD_TILE, BACKWARD_SHARE)
    programs = triton.cdiv(rows, together)
    wants_strength, wants_weight, wants_bias = wants
    if wants_weight or wants_bias:
        programs = min(programs, _processors(x.device) * max(1, RESIDENT_WARPS // warps))
    shares = [
        x.new_empty(shape, dtype=torch.float32) if wanted else None
        for shape, wanted in (
            ((programs,), wants_strength),
            ((programs, width), wants_weight),
            ((programs, width), wants_bias),
        )
    ]
    weight, _ = _in_one_piece(norm)
    with device_of(x):
        _backward[(programs,)](
            *(grad_y, grad_z, x, y, kept.coefficient, grad_x, grad_update, *shares),
            *(weight_on(x, rule.strength), weight, rows, width, rule.eps, norm.eps),
            IS_RMS=norm.kind == "rms",
            ROWS=together,
            BLOCK=block,
            num_warps=warps,
            **FUSED,
        )
    return Gradients(grad_x, grad_update, *(None if share is None else share.sum(0) for share in shares))


def _sizes(width: int, tile: int, share: int) -> tuple[int, int, int]:
    """Places of a vector, vectors of a tile, and warps."""
    block = triton.next_power_of_2(width)
    together = max(1, tile // block)
    return block, together, min(MOST_WARPS, max(4, together * block // share))


def _in_one_piece(norm: Norm) -> tuple[Tensor | None, Tensor | None]:
    weight, bias = (None if each is None else each.contiguous() for each in (norm.weight, norm.bias))
    return weight, bias


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_PROCESSORS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
