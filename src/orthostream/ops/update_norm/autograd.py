"""The pair as one step of autograd around the kernels; it runs only where they do.

Second derivatives, and gradients of a stream that no norm read, leave the kernels of the pair.
"""

from typing import Any

import torch
from torch import Tensor

from orthostream.ops.choice import must_be_plain
from orthostream.ops.orthogonal_update.autograd import like_weight
from orthostream.ops.orthogonal_update.closed_form import Kept
from orthostream.ops.orthogonal_update.reference import Rule, Weight
from orthostream.ops.update_norm import closed_form
from orthostream.ops.update_norm.reference import Kind, Norm


class OrthogonalUpdateNorm(torch.autograd.Function):
    """``(x, update, strength, weight, bias, eps, kind, norm_eps, dtype) -> (y, z, s)``; callers never see ``s``.

    Kept are x, y and s. Autograd knows ``y`` and ``s`` as outputs, which makes second derivatives exact.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        update: Tensor,
        strength: Weight,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        kind: Kind,
        norm_eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Triton need not be installed where no kernel runs.
        from orthostream.ops.update_norm import triton

        rule, norm = Rule(-1, eps, False, strength), Norm(kind, norm_eps, weight, bias)
        y, z, coefficient = triton.forward(x, update, rule, norm, dtype)
        ctx.set_materialize_grads(False)
        ctx.eps, ctx.kind, ctx.norm_eps, ctx.update_dtype = eps, kind, norm_eps, update.dtype
        is_dial = isinstance(strength, Tensor)
        ctx.strength = None if is_dial else strength
        ctx.save_for_backward(x, y, coefficient, weight, bias, strength if is_dial else None)
        return y, z, coefficient

    @staticmethod
    def backward(
        ctx: Any, grad_y: Tensor | None, grad_z: Tensor | None, grad_coefficient: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        from orthostream.ops.update_norm import triton

        x, y, coefficient, weight, bias, dial = ctx.saved_tensors
        strength: Weight = ctx.strength if dial is None else dial
        kept = Kept(x, y, coefficient, True, ctx.update_dtype)
        rule, norm = Rule(-1, ctx.eps, False, strength), Norm(ctx.kind, ctx.norm_eps, weight, bias)
        _, _, wants_strength, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        wants = (wants_strength, wants_weight, wants_bias)
        # Kernels cannot be differentiated, nor mapped over a batch of gradients.
        if grad_z is None or grad_coefficient is not None or must_be_plain(grad_y, grad_z):
            gradients = closed_form.backward(grad_y, grad_z, grad_coefficient, kept, rule, norm, wants)
        else:
            gradients = triton.backward(grad_y, grad_z, kept, rule, norm, wants)
        return (
            gradients.x,
            gradients.update,
            like_weight(gradients.strength, strength),
            like_weight(gradients.weight, weight),
            like_weight(gradients.bias, bias),
            None,
            None,
            None,
            None,
        )
