"""The orthogonal update as one step of autograd, around whichever engine computes it.

Second derivatives always go through the closed form, which is differentiable.
"""

from typing import Any

import torch
from torch import Tensor

from orthostream.ops.choice import must_be_plain
from orthostream.ops.orthogonal_update import closed_form
from orthostream.ops.orthogonal_update.closed_form import Kept, keeps_result
from orthostream.ops.orthogonal_update.engine import Engine
from orthostream.ops.orthogonal_update.reference import Rule, Weight
from orthostream.shapes import Axes


class OrthogonalUpdate(torch.autograd.Function):
    """``(x, update, the fields of a Rule, engine) -> (y, s)``.

    ``s`` is an output although callers never see it: that is what makes the second derivative exact, since autograd
    then knows where the saved coefficient came from. The context is filled in ``forward``, since a separate
    ``setup_context`` makes each call several times as dear; function transforms, which need one, take the formula.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        update: Tensor,
        strength: Weight,
        stream_weight: Weight,
        update_weight: Weight,
        dim: Axes,
        eps: float,
        clamp: bool,
        engine: Engine,
    ) -> tuple[Tensor, Tensor]:
        rule = Rule(dim, eps, clamp, strength, stream_weight, update_weight)
        y, coefficient = engine.forward(x, update, rule)
        ctx.set_materialize_grads(False)
        ctx.engine, ctx.update_dtype = engine, update.dtype
        ctx.is_result = keeps_result(rule)
        ctx.dim, ctx.eps, ctx.clamp = dim, eps, clamp
        weights = (strength, stream_weight, update_weight)
        ctx.weights = tuple(None if isinstance(weight, Tensor) else weight for weight in weights)
        tensors = [weight if isinstance(weight, Tensor) else None for weight in weights]
        ctx.save_for_backward(x, y if ctx.is_result else update, coefficient, *tensors)
        return y, coefficient

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_coefficient: Tensor | None) -> tuple[Tensor | None, ...]:
        x, other, coefficient, *tensors = ctx.saved_tensors
        strength, stream_weight, update_weight = (
            number if tensor is None else tensor for number, tensor in zip(ctx.weights, tensors, strict=True)
        )
        rule = Rule(ctx.dim, ctx.eps, ctx.clamp, strength, stream_weight, update_weight)
        kept = Kept(x, other, coefficient, ctx.is_result, ctx.update_dtype)
        _, _, wants_strength, wants_stream_weight, wants_update_weight, *_ = ctx.needs_input_grad
        wants_weights = (wants_stream_weight, wants_update_weight, wants_strength)
        # An engine cannot be differentiated, nor mapped over a batch of gradients.
        if grad is None or grad_coefficient is not None or must_be_plain(grad):
            gradients = closed_form.backward(grad, kept, rule, wants_weights, grad_coefficient)
        else:
            gradients = ctx.engine.backward(grad, kept, rule, wants_weights)
        return (
            gradients.x,
            gradients.update,
            like_weight(gradients.strength, strength),
            like_weight(gradients.stream_weight, stream_weight),
            like_weight(gradients.update_weight, update_weight),
            None,
            None,
            None,
            None,
        )


def like_weight(gradient: Tensor | None, weight: Weight | None) -> Tensor | None:
    """The gradient of a weight, in its shape and dtype."""
    if gradient is None or not isinstance(weight, Tensor):
        return None
    return gradient.to(weight.dtype).reshape(weight.shape)
