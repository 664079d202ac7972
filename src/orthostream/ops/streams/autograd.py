"""Reading and writing streams as steps of autograd, around whichever engine computes them.

Both keep their operands and nothing else. Second derivatives always go through the closed form, which is
differentiable.
"""

from typing import Any

import torch
from torch import Tensor

from orthostream.ops.choice import must_be_plain
from orthostream.ops.streams import closed_form
from orthostream.ops.streams.engine import Engine


class ReadStreams(torch.autograd.Function):
    """``(streams, weights, engine) -> x``, on rows [..., n, C]."""

    @staticmethod
    def forward(ctx: Any, streams: Tensor, weights: Tensor, engine: Engine) -> Tensor:
        ctx.engine = engine
        ctx.save_for_backward(streams, weights)
        return engine.read(streams, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_for_backward(ctx.engine, grad).read_backward(grad, *ctx.saved_tensors), None


class WriteStreams(torch.autograd.Function):
    """``(streams, update, mixing, weights, engine) -> X'``, on rows [..., n, C]."""

    @staticmethod
    def forward(ctx: Any, streams: Tensor, update: Tensor, mixing: Tensor, weights: Tensor, engine: Engine) -> Tensor:
        ctx.engine = engine
        ctx.save_for_backward(streams, update, mixing, weights)
        return engine.write(streams, update, mixing, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_for_backward(ctx.engine, grad).write_backward(grad, *ctx.saved_tensors), None


def _for_backward(engine: Engine, grad: Tensor) -> Engine:
    """``engine``, unless it would have to be differentiated, or mapped over a batch of gradients."""
    return closed_form if must_be_plain(grad) else engine
