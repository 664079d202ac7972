"""Operations on tensors: a folder an operation, each with its plain reference beside the fast forms."""

from orthostream.ops.orthogonal_update import decompose, orthogonal_update

__all__ = ["decompose", "orthogonal_update"]
