"""The orthogonal residual update."""

import math
from collections.abc import Callable
from typing import Any, Self, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from orthostream.connections.base import Connection, Site, identity
from orthostream.connections.projection import axes_mix_tokens, checked_eps, reduction_axes
from orthostream.errors import UsageError
from orthostream.ops import orthogonal_update, orthogonal_update_norm
from orthostream.shapes import Axes, Note, Stream


class Orthogonal(Connection):
    """``y = x + u - strength * s * x`` with ``s = <x, u> / (<x, x> + eps)``.

    Args:
        site: the place in the trunk.
        dim: axis or axes of the inner products. Left out, the feature axis of the site ("feature"). For the
            "global" form give the axes: ``(1, 2, 3)`` on maps, ``(1, 2)`` on tokens; the latter lets a token
            see all others.
        eps: added to the squared norm.
        strength: how much of the parallel part is removed: 0 is the plain sum, 1 the orthogonal update. Kept in a
            float32 buffer of shape ``()``, outside the state dict, so that ``connection.strength.fill_(value)``
            changes it between steps without a new compilation.

    Raises:
        UsageError: for a negative eps, a strength that is not finite, or axes that are no axes.

    Example:
        >>> import torch
        >>> connection = Orthogonal()
        >>> connection.write(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
        tensor([[2.0000, 3.0000]])

    Reference:
        Oh et al., Orthogonal Residual Updates, NeurIPS 2025, arXiv:2505.11881, equations 3 to 5.
    """

    clamp = False
    strength: Tensor

    def __init__(
        self, site: Site | None = None, *, dim: Axes | None = None, eps: float = 1e-6, strength: float = 1.0
    ) -> None:
        super().__init__(site)
        self.dim, self.eps = reduction_axes(dim, self.axis), checked_eps(eps)
        self.mixes_tokens = axes_mix_tokens(self.dim, self.axis)
        if not math.isfinite(strength):
            raise UsageError(f"strength is the share of the parallel part that is removed, a number; got {strength}")
        self.initial_strength = float(strength)
        self.register_buffer("strength", torch.empty((), dtype=torch.float32), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.strength.fill_(self.initial_strength)

    def write(self, stream: Stream, update: Tensor, note: Note = None) -> Stream:
        return orthogonal_update(stream, update, self.dim, self.eps, self.strength)

    def write_read(
        self,
        stream: Stream,
        update: Tensor,
        note: Note,
        following: Connection,
        norm: Callable[[Any], Any] = identity,
        dtype: torch.dtype | None = None,
    ) -> tuple[Stream, Any, Note]:
        # A compiler fuses the two by itself; what stands in the place of `write`, such as a recording, must be called.
        is_own_write = getattr(self.write, "__func__", None) is Orthogonal.write
        if torch.compiler.is_compiling() or not (
            is_own_write and following.reads_plainly and is_plain_norm(norm, stream.shape[-1:])
        ):
            return super().write_read(stream, update, note, following, norm, dtype)
        stream, x = orthogonal_update_norm(
            stream,
            update,
            self.dim,
            self.eps,
            self.strength,
            norm="layer" if isinstance(norm, nn.LayerNorm) else "rms",
            weight=norm.weight,
            bias=norm.bias if isinstance(norm, nn.LayerNorm) else None,
            norm_eps=norm.eps,
            dtype=dtype,
        )
        return stream, x, None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `model.bfloat16()` is meant for weights; it would turn a strength of 0.3 into 0.30078125.
        dial = self.strength
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.strength.dtype != dial.dtype:
            self.strength = dial.to(self.strength.device)
        return self

    def extra_repr(self) -> str:
        return f"dim={self.dim}, eps={self.eps:g}, strength={self.initial_strength:g}"


def is_plain_norm(norm: object, shape: tuple[int, ...]) -> TypeGuard[nn.LayerNorm | nn.RMSNorm]:
    """Whether a call of the norm computes what its type says over axes of that shape, and nothing listens to it."""
    # Parametrised and sharded modules have a type of their own.
    if not isinstance(norm, nn.LayerNorm | nn.RMSNorm) or type(norm) not in (nn.LayerNorm, nn.RMSNorm):
        return False
    if norm.normalized_shape != shape or "forward" in norm.__dict__:
        return False
    hooks = (norm._forward_hooks, norm._forward_pre_hooks, norm._backward_hooks, norm._backward_pre_hooks)
    return not (any(hooks) or _has_any_global_hook())  # type: ignore[no-untyped-call]
