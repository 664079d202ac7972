"""Operations on tensors: a folder an operation, each with its plain reference beside the fast forms."""

from orthostream.ops.choice import Implementation, KernelError, forced
from orthostream.ops.orthogonal_update import decompose, implementation, orthogonal_update
from orthostream.ops.streams import read_streams, write_streams
from orthostream.ops.update_norm import orthogonal_update_norm

__all__ = [
    "Implementation",
    "KernelError",
    "decompose",
    "forced",
    "implementation",
    "orthogonal_update",
    "orthogonal_update_norm",
    "read_streams",
    "write_streams",
]
