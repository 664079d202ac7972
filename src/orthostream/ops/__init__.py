"""Operations on tensors: a folder an operation, each with its plain reference beside the fast forms."""

from orthostream.ops.choice import Implementation, KernelError, forced
from orthostream.ops.orthogonal_update import decompose, implementation, orthogonal_update

__all__ = ["Implementation", "KernelError", "decompose", "forced", "implementation", "orthogonal_update"]
