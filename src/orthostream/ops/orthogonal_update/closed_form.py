"""The orthogonal update with its backward in closed form.

With ``s = <x,u>/m``, ``m = <x,x> + eps``, strength ``k`` and ``y = u + (1 - k s) x``, an upstream gradient ``g``
of ``y`` and ``h`` of ``s`` give::

    a  = (k <x,g> - h) / m
    du = g - a x
    dx = (1 - k s) g - a (u - 2 s x)

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
    """``(x, update, dim, eps, strength) -> (y, s)``; see the module's docstring for the formulas."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, update: Tensor, dim: Axes, eps: float, strength: float | Tensor) -> tuple[Tensor, Tensor]:
        dtype = accumulation_dtype(x, update)
        wide_x, wide_update = x.to(dtype), update.to(dtype)
        coefficient, _ = parallel_coefficient(wide_x, wide_update, dim, eps)
        return torch.addcmul(wide_update, 1 - strength * coefficient, wide_x).to(x.dtype), coefficient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, update, ctx.dim, ctx.eps, strength = inputs
        y, coefficient = output
        ctx.set_materialize_grads(False)
        ctx.update_dtype = update.dtype
        ctx.keeps_result = y.dtype in (torch.float32, torch.float64) and y.dtype == coefficient.dtype
        ctx.strength_is_tensor = isinstance(strength, Tensor)
        ctx.strength = None if ctx.strength_is_tensor else strength
        dial = (strength,) if ctx.strength_is_tensor else ()
        ctx.save_for_backward(x, y if ctx.keeps_result else update, coefficient, *dial)

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_coefficient: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, kept, coefficient, *dial = ctx.saved_tensors
        strength = dial[0] if ctx.strength_is_tensor else ctx.strength
        dtype = coefficient.dtype
        wide_x, wide_kept = x.to(dtype), kept.to(dtype)
        denominator = (wide_x * wide_x).sum(ctx.dim, keepdim=True) + ctx.eps
        kept_share = 1 - strength * coefficient
        # u - 2 s x, where u itself was kept or is recovered from y = u + (1 - k s) x
        offset = kept_share if ctx.keeps_result else 0.0
        slope = wide_kept - (offset + 2 * coefficient) * wide_x

        if grad is None:
            if grad_coefficient is None:
                return None, None, None, None, None
            toward_x = -grad_coefficient / denominator
            grad_x, grad_update = -toward_x * slope, -toward_x * wide_x
        else:
            wide_grad = grad.to(dtype)
            pull = strength * (wide_x * wide_grad).sum(ctx.dim, keepdim=True)
            if grad_coefficient is not None:
                pull = pull - grad_coefficient
            toward_x = pull / denominator
            grad_update = wide_grad - toward_x * wide_x
            grad_x = kept_share * wide_grad - toward_x * slope
        return grad_x.to(x.dtype), grad_update.to(ctx.update_dtype), None, None, None
