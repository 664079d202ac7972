"""The orthogonal update with its derivatives in closed form.

With ``s = <x,u>/m``, ``m = <x,x> + eps``, strength ``k`` and ``y = u + (1 - k s) x``, an upstream gradient ``g``
of ``y`` and ``h`` of ``s`` give::

    a  = (k <x,g> - h) / m
    du = g - a x
    dx = (1 - k s) g - a (u - 2 s x)

and tangents ``x'``, ``u'``, ``k'`` give ``s' = (<x',u - 2 s x> + <x,u'>) / m`` and
``y' = u' + (1 - k s) x' - (k s' + k' s) x``.

Autograd on the plain formula keeps x, u and several scalars a vector. Here a float32 or float64 stream
keeps x, y and s: x and y are the stream before and after, which the neighbouring norms keep anyway, and
``u = y - (1 - k s) x`` is computed again. A half-precision y is rounded, and the update recovered from it would
carry that rounding, so half streams keep x, u and s instead.

``s`` is an output although callers never see it: that is what makes the second derivative exact, since
autograd then knows where the saved coefficient came from.
"""

from typing import Any

import torch
from torch import Tensor

from orthostream.ops.orthogonal_update.reference import accumulation_dtype, parallel_coefficient
from orthostream.shapes import Axes


class OrthogonalUpdate(torch.autograd.Function):
    """``(x, update, dim, eps, strength) -> (y, s)``; the strength gets no gradient in reverse mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, update: Tensor, dim: Axes, eps: float, strength: float | Tensor) -> tuple[Tensor, Tensor]:
        dtype = accumulation_dtype(x, update)
        wide_x, wide_update = x.to(dtype), update.to(dtype)
        coefficient = parallel_coefficient(wide_x, wide_update, dim, eps)
        return torch.addcmul(wide_update, 1 - strength * coefficient, wide_x).to(x.dtype), coefficient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, update, ctx.dim, ctx.eps, strength = inputs
        y, coefficient = output
        ctx.set_materialize_grads(False)
        ctx.stream_dtype, ctx.update_dtype = x.dtype, update.dtype
        ctx.keeps_result = y.dtype == coefficient.dtype
        is_dial = isinstance(strength, Tensor)
        ctx.strength = None if is_dial else strength
        # One list for both modes: vmap remembers the batch axes of the last one given.
        kept = (x, y if ctx.keeps_result else update, coefficient, *((strength,) if is_dial else ()))
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_coefficient: Tensor | None
    ) -> tuple[Tensor, Tensor, None, None, None]:
        x, kept, coefficient, strength = _saved(ctx)
        kept_share = 1 - strength * coefficient
        wide_grad = torch.zeros_like(x) if grad is None else grad.to(x.dtype)
        pull = strength * (x * wide_grad).sum(ctx.dim, keepdim=True)
        if grad_coefficient is not None:
            pull = pull - grad_coefficient
        pull = pull / ((x * x).sum(ctx.dim, keepdim=True) + ctx.eps)
        # Multiplied out, since on a CPU each further temporary of the stream's size costs more than the arithmetic.
        grad_x = torch.addcmul(kept_share * wide_grad, pull, kept, value=-1)
        grad_x = torch.addcmul(grad_x, pull * _stretch(ctx, coefficient, kept_share), x)
        grad_update = torch.addcmul(wide_grad, pull, x, value=-1)
        return grad_x.to(ctx.stream_dtype), grad_update.to(ctx.update_dtype), None, None, None

    @staticmethod
    def jvp(
        ctx: Any, x_tangent: Tensor | None, update_tangent: Tensor | None, _dim: None, _eps: None, dial: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x, kept, coefficient, strength = _saved(ctx)
        kept_share = 1 - strength * coefficient
        x_tangent = torch.zeros_like(x) if x_tangent is None else x_tangent.to(x.dtype)
        update_tangent = torch.zeros_like(x) if update_tangent is None else update_tangent.to(x.dtype)
        slope = kept - _stretch(ctx, coefficient, kept_share) * x
        change = (x_tangent * slope + x * update_tangent).sum(ctx.dim, keepdim=True)
        change = change / ((x * x).sum(ctx.dim, keepdim=True) + ctx.eps)
        drop = strength * change if dial is None else strength * change + dial * coefficient
        return (update_tangent + kept_share * x_tangent - drop * x).to(ctx.stream_dtype), change


def _saved(ctx: Any) -> tuple[Tensor, Tensor, Tensor, float | Tensor]:
    """x, what was kept beside it (y or u) and s in the accumulation dtype, and the strength."""
    x, kept, coefficient, *dial = ctx.saved_tensors
    dtype = coefficient.dtype
    return x.to(dtype), kept.to(dtype), coefficient, dial[0] if dial else ctx.strength


def _stretch(ctx: Any, coefficient: Tensor, kept_share: Tensor) -> Tensor:
    """The factor in ``u - 2 s x = kept - stretch x``, where u itself was kept, or ``y = u + (1 - k s) x``."""
    return 2 * coefficient + kept_share if ctx.keeps_result else 2 * coefficient
