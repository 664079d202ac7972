"""Which implementation of an operation runs, and why.

Every operation has some of these: ``reference``, the formula as one reads it, differentiated by autograd;
``closed_form``, plain PyTorch with a backward pass of its own, which keeps less; ``blocked``, the same on a CPU, some
vectors at a time; ``triton``, fused kernels. They agree to rounding. What decides is the device of the tensors, never
the presence of a package. An operation that lacks the one that is asked for takes the closed form.
"""

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from orthostream.errors import UsageError, unknown

Name: TypeAlias = Literal["reference", "closed_form", "blocked", "triton"]

VARIABLE = "ORTHOSTREAM_IMPLEMENTATION"

# Kernels sum in float32, which would truncate float64.
KERNEL_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
# Triton compiles for Volta and later.
OLDEST_CAPABILITY = (7, 0)
PLAIN_TENSORS = frozenset({Tensor, nn.Parameter, nn.Buffer})


@dataclass(frozen=True)
class Implementation:
    """The name of an implementation, and why it was chosen."""

    name: Name
    reason: str


TRANSFORMED = Implementation("reference", "a function transform or forward-mode differentiation is active")
COMPILED = Implementation("closed_form", "a compiler is tracing: it fuses plain PyTorch with its neighbours")
ON_CUDA = Implementation("triton", "the tensors are on a CUDA device")
ELSEWHERE = Implementation("closed_form", "the tensors are not on a CUDA device, where alone kernels run")
INTERPRETED = Implementation("triton", "Triton's interpreter runs kernels on the CPU (TRITON_INTERPRET=1)")
FLOAT64 = Implementation("closed_form", "an operand is float64; kernels compute in float32")
SUBCLASS = Implementation("closed_form", "an operand is no plain tensor (a sharded or fake one, say)")


EMPTY = Implementation("closed_form", "there is nothing to compute")


class KernelError(RuntimeError):
    """Kernels were asked for by name and cannot run."""


def choose(*operands: Tensor) -> Implementation:
    """The implementation for these operands.

    In this order: where a compiler is tracing, the one that is forced, or else plain PyTorch; the formula, where a
    function transform needs it, whatever is forced, since only the formula can be transformed; the one that is forced;
    plain PyTorch, where the device is none that kernels run on, where a dtype is float64, or where an operand is no
    plain tensor; kernels otherwise. An operation may add conditions on shapes.

    Raises:
        KernelError: where kernels are forced and cannot run on these operands.
    """
    if torch.compiler.is_compiling():
        # Blocks are for a cache that compiled loops use by themselves.
        return COMPILED if _forced is None or _forced.name == "blocked" else _forced
    if transforms_are_active():
        return TRANSFORMED
    if _forced is not None and _forced.name != "triton":
        return _forced
    device = operands[0].device
    if device.type == "cuda":
        choice = _on_cuda(device.index)
    else:
        choice = INTERPRETED if interprets() else ELSEWHERE
    if choice.name == "triton":
        for operand in operands:
            if operand.dtype not in KERNEL_DTYPES:
                choice = FLOAT64
            elif not are_plain(operand):
                choice = SUBCLASS
    if _forced is not None and choice.name != "triton":
        return refuse_forced_kernels(choice)
    return choice


def refuse_forced_kernels(instead: Implementation) -> Implementation:
    """``instead``, unless kernels are forced.

    Raises:
        KernelError: where they are.
    """
    if _forced is not None and _forced.name == "triton":
        raise KernelError(f"{_forced.reason}, but kernels cannot run here: {instead.reason}. Leave the choice free")
    return instead


def are_plain(*operands: Tensor) -> bool:
    """Whether no operand is a tensor of a class of its own, such as a sharded or a fake one."""
    return all(type(operand) in PLAIN_TENSORS for operand in operands)


def transforms_are_active() -> bool:
    """Whether vmap, grad, jvp and the like of torch.func are active, or forward-mode differentiation is."""
    # torch has no public question for the first; autograd.Function asks the same one.
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def must_be_plain(*gradients: Tensor | None) -> bool:
    """Whether a backward pass has to be differentiable or traceable, or pulls back a batch of gradients at once."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or transforms_are_active():
        return True
    # `torch.autograd.grad(..., is_grads_batched=True)` maps in a way that the transforms of torch.func do not know of.
    return any(gradient is not None and torch._C._functorch.is_legacy_batchedtensor(gradient) for gradient in gradients)


@contextmanager
def forced(name: Name) -> Iterator[None]:
    """Use one implementation for all operations inside the block; for comparisons.

    The environment variable ``ORTHOSTREAM_IMPLEMENTATION`` does the same for a whole process.

    Raises:
        UsageError: for an unknown name.

    Example:
        >>> import torch
        >>> from orthostream.ops import implementation
        >>> with forced("reference"):
        ...     implementation(torch.ones(3), torch.ones(3)).name
        'reference'
    """
    # One choice for a process, as the environment variable is.
    global _forced  # noqa: PLW0603
    before, _forced = _forced, _checked(name, "orthostream.ops.forced")
    try:
        yield
    finally:
        _forced = before


def _checked(name: str | None, source: str) -> Implementation | None:
    if not name:
        return None
    if name not in get_args(Name):
        raise UsageError(unknown(f"implementation (from {source})", name, get_args(Name)))
    return Implementation(name, f"{source} asks for {name}")  # type: ignore[arg-type]


_forced = _checked(os.environ.get(VARIABLE), f"the environment variable {VARIABLE}")


@cache
def _on_cuda(index: int) -> Implementation:
    """What a device runs; found out once a process by compiling and launching a small kernel."""
    obstacle = _obstacle(index)
    if obstacle is None:
        return ON_CUDA
    warnings.warn(f"orthostream: plain PyTorch runs instead of fused kernels on cuda:{index}: {obstacle}", stacklevel=2)
    return Implementation("closed_form", f"kernels do not run on this device: {obstacle}")


def _obstacle(index: int) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    if torch.version.hip is None and torch.cuda.get_device_capability(index) < OLDEST_CAPABILITY:
        return f"its compute capability is {torch.cuda.get_device_capability(index)}, below {OLDEST_CAPABILITY}"
    from orthostream.ops.probe import launch

    try:
        launch(torch.device("cuda", index))
    except Exception as error:  # whatever a compiler, a driver or a missing C compiler may raise
        return f"a first kernel failed with {type(error).__name__}: {str(error).strip().splitlines()[:1]}"
    return None


def interprets() -> bool:
    """Whether Triton's interpreter stands in for a device, and kernels were asked for by name."""
    # Without the second condition a variable that somebody set for kernels of their own would slow everything down.
    return os.environ.get("TRITON_INTERPRET") == "1" and _forced is not None and _forced.name == "triton"
