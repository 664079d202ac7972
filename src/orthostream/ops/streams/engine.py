"""What reads and writes streams below autograd, and which one for given operands."""

from types import ModuleType
from typing import Protocol, cast

import torch
from torch import Tensor

from orthostream.ops.choice import COMPILED, EMPTY, Implementation, choose, refuse_forced_kernels
from orthostream.ops.streams import closed_form
from orthostream.ops.streams.closed_form import ReadGradients, WriteGradients

# A program holds all streams of its place in registers.
MOST_STREAMS = 8

TOO_MANY = Implementation("closed_form", f"kernels hold up to {MOST_STREAMS} streams")


class Engine(Protocol):
    """A module with both operations and their first derivatives, on rows [..., n, C]."""

    def read(self, streams: Tensor, weights: Tensor) -> Tensor:
        """``sum_i w_i X_i``."""

    def read_backward(self, grad: Tensor, streams: Tensor, weights: Tensor) -> ReadGradients:
        """Gradients of both operands."""

    def write(self, streams: Tensor, update: Tensor, mixing: Tensor, weights: Tensor) -> Tensor:
        """``M X + b (outer) u``."""

    def write_backward(
        self, grad: Tensor, streams: Tensor, update: Tensor, mixing: Tensor, weights: Tensor
    ) -> WriteGradients:
        """Gradients of all operands."""


def choose_for(streams: Tensor, *others: Tensor) -> Implementation:
    """The implementation for these operands, the streams as rows [..., n, C].

    Raises:
        KernelError: where kernels are forced and cannot run.
    """
    choice = choose(streams, *others)
    if choice.name != "triton":
        return choice
    if torch.compiler.is_compiling():
        return refuse_forced_kernels(COMPILED)
    if streams.numel() == 0:
        return EMPTY
    if streams.shape[-2] > MOST_STREAMS:
        return refuse_forced_kernels(TOO_MANY)
    return choice


def engine_of(choice: Implementation) -> Engine:
    """The module behind a choice; that of the kernels is imported at its first use, for it needs Triton."""
    module: ModuleType = closed_form
    if choice.name == "triton":
        from orthostream.ops.streams import triton as module
    return cast(Engine, module)
