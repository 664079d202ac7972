"""Reading and writing parallel streams with a backward pass of its own, as plain PyTorch.

With an upstream gradient ``g`` of ``x = sum_i w_i X_i``, or ``G`` of ``X' = M X + b (outer) u``::

    dX_i = w_i g          dw_i = <X_i, g>
    dX = M^T G            dM_ij = <G_i, X_j>          db_i = <G_i, u>          du = sum_i b_i G_i

**What is kept.** The operands themselves. Autograd on the plain formula keeps float32 copies of half streams.
"""

from typing import NamedTuple

from torch import Tensor

from orthostream.ops.autocast import autocast_off
from orthostream.ops.streams import reference
from orthostream.ops.streams.reference import widened

read = reference.read
write = reference.write


class ReadGradients(NamedTuple):
    """Of the operands of a read, each in the dtype of its operand."""

    streams: Tensor
    weights: Tensor


class WriteGradients(NamedTuple):
    """Of the operands of a write, each in the dtype of its operand."""

    streams: Tensor
    update: Tensor
    mixing: Tensor
    weights: Tensor


def read_backward(grad: Tensor, streams: Tensor, weights: Tensor) -> ReadGradients:
    """The gradients of a read, from that of its result [..., C]; differentiable themselves."""
    wide_grad, rows, wide_weights = widened(grad, streams, weights)
    wide_grad = wide_grad.unsqueeze(-2)
    with autocast_off(rows):
        by_streams = wide_weights.unsqueeze(-1) * wide_grad
        by_weights = (wide_grad @ rows.mT).squeeze(-2)
    return ReadGradients(by_streams.to(streams.dtype), by_weights.to(weights.dtype))


def write_backward(grad: Tensor, streams: Tensor, update: Tensor, mixing: Tensor, weights: Tensor) -> WriteGradients:
    """The gradients of a write, from that of its result [..., n, C]; differentiable themselves."""
    wide_grad, rows, wide_update, wide_mixing, wide_weights = widened(grad, streams, update, mixing, weights)
    with autocast_off(rows):
        by_streams = wide_mixing.mT @ wide_grad
        by_update = (wide_weights.unsqueeze(-2) @ wide_grad).squeeze(-2)
        by_mixing = wide_grad @ rows.mT
        by_weights = (wide_update.unsqueeze(-2) @ wide_grad.mT).squeeze(-2)
    return WriteGradients(
        by_streams.to(streams.dtype),
        by_update.to(update.dtype),
        by_mixing.to(mixing.dtype),
        by_weights.to(weights.dtype),
    )
