"""The derivatives of the pair in closed form, as plain PyTorch, from what the kernels keep.

With ``z = n * weight + bias`` and n the normed vector, ``n = (y - mean y) r`` or ``n = y r``, an upstream gradient h of
z gives::

    e  = h * weight
    dy = r (e - mean e - n mean(e n))       without `mean e` for RMSNorm
    dweight = sum h n                       dbias = sum h

the means over the features, the sums over all vectors. ``dy`` is added to the upstream gradient of y, and the closed
form of the orthogonal update does the rest.
"""

from typing import NamedTuple

from torch import Tensor

from orthostream.ops.orthogonal_update import closed_form
from orthostream.ops.orthogonal_update.closed_form import Kept
from orthostream.ops.orthogonal_update.reference import Rule
from orthostream.ops.update_norm.reference import Norm


class Gradients(NamedTuple):
    """Of stream, update and strength, and of weight and bias of the norm; None where there is none."""

    x: Tensor
    update: Tensor
    strength: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


def backward(
    grad_y: Tensor | None,
    grad_z: Tensor | None,
    grad_coefficient: Tensor | None,
    kept: Kept,
    rule: Rule,
    norm: Norm,
    wants: tuple[bool, bool, bool],
) -> Gradients:
    """The gradients; differentiable themselves.

    Args:
        grad_y: of the stream after the update; None means zeros.
        grad_z: of the normed stream; None means zeros.
        grad_coefficient: of the coefficient s; None means zeros.
        kept: what forward kept of the update, with its result y.
        rule: of the update.
        norm: of the pair.
        wants: whether strength, weight and bias ask for a gradient.

    Returns:
        The gradients of stream and update in the dtypes of both, the others in the accumulation dtype.
    """
    wants_strength, wants_weight, wants_bias = wants
    by_weight = by_bias = None
    if grad_z is not None:
        by_norm, by_weight, by_bias = _norm_backward(grad_z.to(kept.coefficient.dtype), kept, norm)
        grad_y = by_norm if grad_y is None else grad_y + by_norm
    by_update = closed_form.backward(grad_y, kept, rule, (False, False, wants_strength), grad_coefficient)
    return Gradients(
        by_update.x,
        by_update.update,
        by_update.strength,
        by_weight if wants_weight else None,
        by_bias if wants_bias else None,
    )


def _norm_backward(grad: Tensor, kept: Kept, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, of weight and of bias."""
    centred = kept.other.to(grad.dtype)
    if norm.kind == "layer":
        centred = centred - centred.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    normed = centred * scale
    weighted = grad if norm.weight is None else grad * norm.weight.to(grad.dtype)
    by_y = weighted - normed * (weighted * normed).mean(-1, keepdim=True)
    if norm.kind == "layer":
        by_y = by_y - weighted.mean(-1, keepdim=True)
    vectors = tuple(range(grad.ndim - 1))
    by_bias, by_weight = (each.sum(vectors) if vectors else each for each in (grad, grad * normed))
    return scale * by_y, by_weight, by_bias
