"""The orthogonal update as a registered operator: one opaque node for compilers, exporters and other tools.

In eager mode ``autograd.py`` is used instead, since a call by way of the dispatcher takes longer to begin.
"""

from typing import Any

import torch
from torch import Tensor

from orthostream.ops.orthogonal_update.autograd import like_weight
from orthostream.ops.orthogonal_update.closed_form import Kept
from orthostream.ops.orthogonal_update.engine import choose_for, engine_of
from orthostream.ops.orthogonal_update.layout import coefficients_like, dense, in_layout_of
from orthostream.ops.orthogonal_update.reference import Rule, Weight, accumulation_dtype


@torch.library.custom_op("orthostream::orthogonal_update", mutates_args=())
def forward(
    x: Tensor,
    update: Tensor,
    dim: list[int],
    eps: float,
    clamp: bool,
    strength: Tensor | None = None,
    stream_weight: Tensor | None = None,
    update_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``y`` and the coefficient ``s``; a weight of None is 1."""
    rule = _rule(dim, eps, clamp, strength, stream_weight, update_weight)
    y, coefficient = engine_of(choose_for(x, update, rule.dim)).forward(x, update, rule)
    # Whoever traces the operator relies on the order of memory that the fake promises.
    promised = coefficients_like(dense(x), rule.dim, coefficient.dtype)
    return in_layout_of(y, dense(x)), in_layout_of(coefficient, promised)


@torch.library.register_fake("orthostream::orthogonal_update")
def _forward_fake(
    x: Tensor, update: Tensor, dim: list[int], eps: float, clamp: bool, *weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    like = dense(x)
    return torch.empty_like(like), coefficients_like(like, tuple(dim), accumulation_dtype(x, update))


@torch.library.custom_op("orthostream::orthogonal_update_backward", mutates_args=())
def backward(
    grad: Tensor,
    x: Tensor,
    other: Tensor,
    coefficient: Tensor,
    is_result: bool,
    update_dtype: torch.dtype,
    wants_weights: bool,
    dim: list[int],
    eps: float,
    clamp: bool,
    strength: Tensor | None = None,
    stream_weight: Tensor | None = None,
    update_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of stream and update, and of p, q and k as one tensor [3]."""
    rule = _rule(dim, eps, clamp, strength, stream_weight, update_weight)
    kept = Kept(x, other, coefficient, is_result, update_dtype)
    wanted = (wants_weights, wants_weights and not is_result, wants_weights)
    engine = engine_of(choose_for(x, other, rule.dim))
    by_x, by_update, *by_weights = engine.backward(grad, kept, rule, wanted)
    zero = coefficient.new_zeros(())
    stacked = torch.stack([zero if each is None else each for each in by_weights])
    return in_layout_of(by_x, dense(x)), in_layout_of(by_update, dense(x)), stacked


@torch.library.register_fake("orthostream::orthogonal_update_backward")
def _backward_fake(
    grad: Tensor,
    x: Tensor,
    other: Tensor,
    coefficient: Tensor,
    is_result: bool,
    update_dtype: torch.dtype,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    like = dense(x)
    return torch.empty_like(like), torch.empty_like(like, dtype=update_dtype), coefficient.new_empty(3)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, update, ctx.dim, ctx.eps, ctx.clamp, *weights = inputs
    y, coefficient = output
    # Arguments that the caller left out are not among the inputs, nor among those that want a gradient.
    weights += [None] * (3 - len(weights))
    ctx.is_result, ctx.update_dtype = weights[2] is None, update.dtype
    ctx.save_for_backward(x, y if ctx.is_result else update, coefficient, *weights)
    ctx.set_materialize_grads(False)


def _derivative(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, other, coefficient, *weights = ctx.saved_tensors
    wanted = ctx.needs_input_grad[5:]
    if grad is None:
        return (None,) * (5 + len(wanted))
    by_x, by_update, by_weights = backward(
        grad,
        *(x, other, coefficient, ctx.is_result, ctx.update_dtype, any(wanted)),
        *(ctx.dim, ctx.eps, ctx.clamp, *weights),
    )
    by_stream_weight, by_update_weight, by_strength = by_weights.unbind()
    gradients = (
        like_weight(gradient, weight) if is_wanted else None
        for gradient, weight, is_wanted in zip(
            (by_strength, by_stream_weight, by_update_weight), weights, wanted, strict=False
        )
    )
    return by_x, by_update, None, None, None, *gradients


forward.register_autograd(_derivative, setup_context=_setup_context)


def apply(x: Tensor, update: Tensor, rule: Rule) -> Tensor:
    """The operator with the arguments of the other implementations."""
    dim = [rule.dim] if isinstance(rule.dim, int) else list(rule.dim)
    weights = (_tensor(x, weight) for weight in (rule.strength, rule.stream_weight, rule.update_weight))
    return forward(x, update, dim, rule.eps, rule.clamp, *weights)[0]


def _tensor(x: Tensor, weight: Weight) -> Tensor | None:
    if isinstance(weight, Tensor):
        return weight
    return None if weight == 1 else torch.full((), weight, dtype=torch.float32, device=x.device)


def _rule(dim: list[int], eps: float, clamp: bool, *weights: Tensor | None) -> Rule:
    strength, stream_weight, update_weight = (1.0 if weight is None else weight for weight in weights)
    return Rule(tuple(dim), eps, clamp, strength, stream_weight, update_weight)
