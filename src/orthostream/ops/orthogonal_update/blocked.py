"""The orthogonal update and its first derivatives on a CPU: plain PyTorch, some vectors at a time.

In eager mode each step of a formula is a pass over memory, and each full-size temporary may be fresh memory, whose
first touch costs several times the arithmetic. Here nothing of full size is made but the results. They are the scratch
of their own blocks, and what half precision needs besides has the size of a block, which an allocator hands out again.

The formulas are those of ``closed_form.py``, which takes over for streams with gaps or without elements, and where the
axes of the inner products are not neighbours in memory. Gradient mode has to be off.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from orthostream.ops.orthogonal_update import closed_form
from orthostream.ops.orthogonal_update.closed_form import Gradients, Kept, keeps_result
from orthostream.ops.orthogonal_update.layout import Layout, coefficients_like, in_layout_of, is_dense, layout
from orthostream.ops.orthogonal_update.reference import Rule, accumulation_dtype

# Elements of a block for each thread. Measured: half as many cost more in calls than the cache gives back.
BLOCK = 2**19
# Narrowest piece of a map: a cache line of half precision.
PIXELS = 32
# Longest vector whose norm is taken in one pass. It adds squares one after another: 1e-7 off here, 6e-4 at 2**23.
NORM = 2048


def forward(x: Tensor, update: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """The result ``y``, laid out like ``x``, and the coefficient ``s`` in the accumulation dtype."""
    shape = _layout(x, rule)
    if shape is None:
        return closed_form.forward(x, update, rule)
    dtype = accumulation_dtype(x, update)
    y = torch.empty_like(x)
    coefficient = coefficients_like(x, rule.dim, dtype)
    for x_part, update_part, y_part, s in _parts(shape, x, in_layout_of(update, x), y, coefficient):
        x_part, update_part, wide_y = x_part.to(dtype), update_part.to(dtype), _wide(y_part, dtype)
        torch.sum(torch.mul(x_part, update_part, out=wide_y), 1, keepdim=True, out=s)
        s.div_(_guarded_square(x_part, wide_y, rule))
        kept_share = rule.stream_weight - rule.strength * s
        if not keeps_result(rule):
            update_part = rule.update_weight * update_part
        _store(torch.addcmul(update_part, kept_share, x_part, out=wide_y), y_part)
    return y, coefficient


def backward(grad: Tensor, kept: Kept, rule: Rule, wants_weights: tuple[bool, bool, bool]) -> Gradients:
    """Gradients of stream and update, laid out like the stream, and of the weights that ask for one."""
    x = kept.x
    shape = _layout(x, rule)
    if shape is None:
        return closed_form.backward(grad, kept, rule, wants_weights)
    wants_stream_weight, wants_update_weight, wants_strength = wants_weights
    dtype = kept.coefficient.dtype
    grad_x, grad_update = torch.empty_like(x), torch.empty_like(x, dtype=kept.update_dtype)
    pulls = coefficients_like(x, rule.dim, dtype)
    coefficient = in_layout_of(kept.coefficient, pulls)
    products = torch.zeros_like(pulls) if wants_update_weight else pulls
    operands = (x, in_layout_of(grad, x), in_layout_of(kept.other, x), grad_x, grad_update)
    for *parts, s, pull, product in _parts(shape, *operands, coefficient, pulls, products):
        x_part, grad_part, other = (part.to(dtype) for part in parts[:3])
        by_x, by_update = (_wide(part, dtype) for part in parts[3:])
        torch.sum(torch.mul(x_part, grad_part, out=by_x), 1, keepdim=True, out=pull)
        if wants_update_weight:
            torch.sum(torch.mul(other, grad_part, out=by_x), 1, keepdim=True, out=product)
        square = _guarded_square(x_part, by_x, rule)
        pulled = rule.strength * pull / square
        kept_share = rule.stream_weight - rule.strength * s
        stretch = 2 * s
        if rule.clamp:
            stretch *= square > rule.eps
        if kept.is_result:
            stretch += kept_share
        torch.addcmul(other, stretch, x_part, value=-1, out=by_update)
        _store(torch.mul(kept_share, grad_part, out=by_x).addcmul_(pulled, by_update, value=-1), parts[3])
        if not keeps_result(rule):
            grad_part = rule.update_weight * grad_part
        _store(torch.addcmul(grad_part, pulled, x_part, value=-1, out=by_update), parts[4])
    return Gradients(
        grad_x,
        grad_update,
        pulls.sum() if wants_stream_weight else None,
        products.sum() if wants_update_weight else None,
        -(coefficient * pulls).sum() if wants_strength else None,
    )


def _layout(x: Tensor, rule: Rule) -> Layout | None:
    if x.numel() == 0 or not is_dense(x.shape, x.stride()):
        return None
    return layout(x.shape, x.stride(), rule.dim)


def _parts(shape: Layout, *tensors: Tensor) -> "zip[tuple[Tensor, ...]]":
    """The blocks of tensors that lie alike, each ``[outer, length, inner]``; length is 1 for numbers a vector."""
    size = BLOCK * torch.get_num_threads()
    samples = size // (shape.length * shape.inner)
    return zip(*(_split(tensor, shape, samples, size // shape.length) for tensor in tensors), strict=True)


def _split(tensor: Tensor, shape: Layout, samples: int, pixels: int) -> Sequence[Tensor]:
    outer, _, inner = shape
    length = tensor.numel() // (outer * inner)
    stack = tensor.as_strided((outer, length, inner), (length * inner, inner, 1))
    if samples >= outer:
        return (stack,)
    if samples > 0 or inner == 1:
        return torch.split(stack, max(1, samples))
    return [part for sample in torch.split(stack, 1) for part in torch.split(sample, max(PIXELS, pixels), 2)]


def _wide(result: Tensor, dtype: torch.dtype) -> Tensor:
    """Where a block of a result is computed: in its place, or beside it where it is narrower."""
    return result if result.dtype == dtype else torch.empty_like(result, dtype=dtype)


def _store(wide: Tensor, result: Tensor) -> None:
    if wide is not result:
        result.copy_(wide)


def _guarded_square(x: Tensor, scratch: Tensor, rule: Rule) -> Tensor:
    """``m`` of the vectors of a block; ``scratch`` has its size."""
    if x.shape[2] == 1 and x.shape[1] <= NORM:
        square = torch.linalg.vector_norm(x, dim=1, keepdim=True).square_()
    else:
        square = torch.mul(x, x, out=scratch).sum(1, keepdim=True)
    return square.clamp_min_(rule.eps) if rule.clamp else square.add_(rule.eps)
