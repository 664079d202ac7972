"""The orthogonal residual update."""

import torch
from torch import Tensor

from orthostream.connections.base import Connection, Site, axes_mix_tokens
from orthostream.ops import orthogonal_update
from orthostream.shapes import Axes, Note, Stream


class Orthogonal(Connection):
    """``y = x + u - strength * s * x`` with ``s = <x, u> / (<x, x> + eps)``.

    Args:
        site: the place in the trunk.
        dim: axis or axes of the inner products. Left out, the feature axis of the site ("feature"). For the
            "global" form give the axes: ``(1, 2, 3)`` on maps, ``(1, 2)`` on tokens; the latter lets a token
            see all others.
        eps: added to the squared norm.
        strength: 0 is the plain sum, 1 the orthogonal update. Kept in a buffer, so that
            ``connection.strength.fill_(value)`` changes it between steps without a new compilation.

    Reference:
        Oh et al., Orthogonal Residual Updates, NeurIPS 2025, arXiv:2505.11881, equations 3 to 5.
    """

    clamp = False

    def __init__(
        self, site: Site | None = None, *, dim: Axes | None = None, eps: float = 1e-6, strength: float = 1.0
    ) -> None:
        super().__init__(site)
        self.dim = self.axis if dim is None else dim if isinstance(dim, int) else tuple(dim)
        self.eps = float(eps)
        self.mixes_tokens = axes_mix_tokens(self.dim, self.axis)
        self.initial_strength = float(strength)
        self.strength: Tensor
        self.register_buffer("strength", torch.empty(()), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.strength.fill_(self.initial_strength)

    def write(self, stream: Stream, update: Tensor, note: Note = None) -> Stream:
        return orthogonal_update(stream, update, self.dim, self.eps, self.strength)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, eps={self.eps:g}, strength={self.initial_strength:g}"
