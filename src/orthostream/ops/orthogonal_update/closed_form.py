"""The orthogonal update and its derivatives in closed form, as plain PyTorch.

With ``w = p - k s`` and ``y = q u + w x``, an upstream gradient ``g`` of ``y`` and ``h`` of ``s`` give::

    c  = <x, g>                  a  = (k c - h) / m
    du = q g - a x               dx = w g - a (u - 2 s x)
    dp = sum c                   dq = sum <u, g>                  dk = - sum s c

the last three summed over all vectors. Where eps is a lower bound and the squared norm lies below it, m does not
move with x, and the ``2 s x`` of dx is missing.

**What is kept.** Autograd on the plain formula keeps x, u and several numbers a vector. Here x, y and s are kept: x
and y are the stream before and after, which the neighbouring norms keep anyway, and ``u = y - w x`` is computed
again. In half precision y is rounded and the recovered update carries that rounding into dx, scaled by the cosine
of x and g: dx, itself a half-precision tensor, is then at most 1.42 times as far from its exact value as its own
rounding puts it (measured: ``tests/ops/test_orthogonal_update.py``). Where the update has a weight of its own, u
cannot be recovered (q may be 0) and is kept instead of y.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from orthostream.ops.orthogonal_update.reference import Rule, accumulation_dtype, guarded_square, parallel_coefficient


class Kept(NamedTuple):
    """What the backward pass needs: the stream, the result or the update, and the coefficient s."""

    x: Tensor
    other: Tensor
    coefficient: Tensor
    # whether `other` is y
    is_result: bool
    update_dtype: torch.dtype


class Gradients(NamedTuple):
    """Of stream and update, and of the weights p, q and k, each a number; None where nobody asked."""

    x: Tensor
    update: Tensor
    stream_weight: Tensor | None = None
    update_weight: Tensor | None = None
    strength: Tensor | None = None


def forward(x: Tensor, update: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """The result ``y`` and the coefficient ``s``, the latter in the accumulation dtype."""
    dtype = accumulation_dtype(x, update)
    wide_x, wide_update = x.to(dtype), update.to(dtype)
    coefficient = parallel_coefficient(wide_x, wide_update, rule.dim, rule.eps, clamp=rule.clamp)
    kept_share = rule.stream_weight - rule.strength * coefficient
    if not _is_one(rule.update_weight):
        wide_update = rule.update_weight * wide_update
    y = torch.addcmul(wide_update, kept_share, wide_x)
    # Dynamo of torch 2.11 cuts a result off from its gradients where a cast returned its own operand.
    return y if y.dtype == x.dtype else y.to(x.dtype), coefficient


def backward(
    grad: Tensor | None,
    kept: Kept,
    rule: Rule,
    wants_weights: tuple[bool, bool, bool],
    grad_coefficient: Tensor | None = None,
) -> Gradients:
    """The gradients; differentiable themselves.

    Args:
        grad: of ``y``; None means zeros.
        kept: what forward kept.
        rule: as in forward.
        wants_weights: which of p, q and k ask for a gradient.
        grad_coefficient: of ``s``; None means zeros. It appears in second derivatives alone.

    Returns:
        The gradients of stream and update in the dtypes of both, those of the weights in the accumulation dtype.
    """
    coefficient = kept.coefficient
    dtype = coefficient.dtype
    x, other = kept.x.to(dtype), kept.other.to(dtype)
    grad = x.new_zeros(x.shape) if grad is None else grad.to(dtype)
    kept_share = rule.stream_weight - rule.strength * coefficient
    square = guarded_square(x, rule.dim, rule.eps, rule.clamp)
    pull = (x * grad).sum(rule.dim, keepdim=True)
    pulled = rule.strength * pull
    if grad_coefficient is not None:
        pulled = pulled - grad_coefficient
    pulled = pulled / square
    stretch = 2 * coefficient
    if rule.clamp:
        # m equals eps, to the bit, where the bound holds.
        stretch = stretch * (square > rule.eps)
    if kept.is_result:
        stretch = stretch + kept_share
    slope = torch.addcmul(other, stretch, x, value=-1)
    grad_x = torch.addcmul(kept_share * grad, pulled, slope, value=-1)
    weighted_grad = grad if _is_one(rule.update_weight) else rule.update_weight * grad
    grad_update = torch.addcmul(weighted_grad, pulled, x, value=-1)
    wants_stream_weight, wants_update_weight, wants_strength = wants_weights
    return Gradients(
        grad_x.to(kept.x.dtype),
        grad_update.to(kept.update_dtype),
        pull.sum() if wants_stream_weight else None,
        (other * grad).sum() if wants_update_weight else None,
        -(coefficient * pull).sum() if wants_strength else None,
    )


def keeps_result(rule: Rule) -> bool:
    """Whether the update can be recovered from the result."""
    return _is_one(rule.update_weight)


def _is_one(weight: float | Tensor) -> bool:
    return not isinstance(weight, Tensor) and weight == 1
