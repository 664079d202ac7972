"""The orthogonal update and the norm that reads it, one after the other: what the fused kernels must equal."""

from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional

from orthostream.ops.orthogonal_update import orthogonal_update
from orthostream.ops.orthogonal_update.reference import Rule

Kind: TypeAlias = Literal["layer", "rms"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Norm(NamedTuple):
    """LayerNorm or RMSNorm over the last axis: ``z = (y - mean y) / sqrt(var y + eps) * weight + bias``, or
    ``z = y / sqrt(mean y^2 + eps) * weight``.

    Args:
        kind: which of the two.
        eps: added to the variance, or to the mean square.
        weight: [features], or None for ones.
        bias: [features], or None for zeros; LayerNorm alone has one.
    """

    kind: Kind
    eps: float
    weight: Tensor | None = None
    bias: Tensor | None = None


def in_turn(x: Tensor, update: Tensor, rule: Rule, norm: Norm, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """The stream after the update, and its norm in ``dtype``; the update picks its own implementation."""
    y = orthogonal_update(x, update, rule.dim, rule.eps, rule.strength)
    width = (y.shape[-1],)
    if norm.kind == "layer":
        z = functional.layer_norm(y, width, norm.weight, norm.bias, norm.eps)
    else:
        z = functional.rms_norm(y, width, norm.weight, norm.eps)
    return y, z if dtype is None else z.to(dtype)


def norm_is_widened(x: Tensor) -> bool:
    """Whether autocast makes the norm of such a tensor take and return float32; on the CPU it lets norms be."""
    return x.is_cuda and torch.is_autocast_enabled("cuda")
