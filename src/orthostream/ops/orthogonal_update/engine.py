"""What computes the update and its gradients below autograd, and which one for given operands."""

from types import ModuleType
from typing import Protocol, cast

import torch
from torch import Tensor

from orthostream.ops.choice import ELSEWHERE, EMPTY, Implementation, are_plain, choose, refuse_forced_kernels
from orthostream.ops.orthogonal_update import blocked, closed_form
from orthostream.ops.orthogonal_update.closed_form import Gradients, Kept
from orthostream.ops.orthogonal_update.layout import layout
from orthostream.ops.orthogonal_update.reference import Rule
from orthostream.shapes import Axes

# Elements from which going through blocks costs less than it saves.
SMALLEST_BLOCKED = 2**17

IN_BLOCKS = Implementation(
    "blocked", "the tensors are on the CPU; vectors are computed in blocks that stay in its cache"
)
SCATTERED = Implementation("closed_form", "the axes of the inner products are not neighbours in memory")


class Engine(Protocol):
    """A module with the update and its first derivatives."""

    def forward(self, x: Tensor, update: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        """``y`` and the coefficient ``s``."""

    def backward(self, grad: Tensor, kept: Kept, rule: Rule, wants_weights: tuple[bool, bool, bool]) -> Gradients:
        """Gradients of stream and update, and of p, q and k where they are wanted."""


def choose_for(x: Tensor, update: Tensor, dim: Axes) -> Implementation:
    """The implementation for these operands: that of their device, unless their shape is beyond it.

    Raises:
        KernelError: where kernels are forced and cannot run.
    """
    choice = choose(x, update)
    if choice is ELSEWHERE and x.device.type == "cpu" and x.numel() >= SMALLEST_BLOCKED and are_plain(x, update):
        return IN_BLOCKS
    if choice.name != "triton" or torch.compiler.is_compiling():
        return choice
    if x.numel() == 0:
        return EMPTY
    if layout(x.shape, x.stride(), dim) is None:
        return refuse_forced_kernels(SCATTERED)
    return choice


def engine_of(choice: Implementation) -> Engine:
    """The module behind a choice; that of the kernels is imported at its first use, for it needs Triton."""
    module: ModuleType = blocked if choice.name == "blocked" else closed_form
    if choice.name == "triton":
        from orthostream.ops.orthogonal_update import triton as module
    return cast(Engine, module)
