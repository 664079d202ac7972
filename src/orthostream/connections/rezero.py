"""ReZero: a learned scalar in front of the update, and its constrained form on the unit circle."""

import math

import torch
from torch import Tensor, nn

from orthostream.connections.base import Components, Connection, Site
from orthostream.connections.bases import Base, check_base, mean_squared_norm
from orthostream.errors import UsageError
from orthostream.ops import decompose, orthogonal_update
from orthostream.shapes import Axes, Note, Stream


class ReZero(Connection):
    """``y = x + alpha * u``, or ``y = x + alpha * u_orthogonal`` on the orthogonal base; alpha starts at 0.

    Args:
        site: the place in the trunk.
        base: ``linear`` or ``orthogonal``.
        dim: axes of the inner products; left out, the feature axis.
        eps: added to the squared norm (orthogonal base).

    Reference:
        Bachlechner et al., ReZero is All You Need, UAI 2021, arXiv:2003.04887, equation 1; on the orthogonal
        base: the authors' code of arXiv:2505.11881.
    """

    def __init__(
        self, site: Site | None = None, *, base: Base = "linear", dim: Axes | None = None, eps: float = 1e-6
    ) -> None:
        super().__init__(site)
        self.is_orthogonal, self.dim, self.mixes_tokens = check_base(base, dim, self.axis)
        self.clamp, self.eps = not self.is_orthogonal, float(eps)
        self.alpha = nn.Parameter(torch.empty(1)) if "write" in self.site.verbs else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.alpha is not None:
            nn.init.zeros_(self.alpha)

    def write(self, stream: Stream, update: Tensor, note: Note = None) -> Stream:
        assert self.alpha is not None, "a site that is written has its scalar"
        scaled = self.alpha * update
        if self.is_orthogonal:
            # The orthogonal part is linear in the update, so the scalar may go first.
            return orthogonal_update(stream, scaled, self.dim, self.eps)
        return (stream + scaled).to(stream.dtype)

    def components(self, stream: Stream, update: Tensor) -> Components:
        assert self.alpha is not None, "a site that is written has its scalar"
        parallel, orthogonal = decompose(stream, update, self.dim, self.eps, clamp=self.clamp)
        if not self.is_orthogonal:
            extras: dict[str, Tensor] = {"alpha": self.alpha}
            return Components(parallel, orthogonal, update, self.axis, self.eps, self.clamp, extras)
        extras = {"alpha": self.alpha, "f_ortho_raw_norm2": mean_squared_norm(orthogonal, self.axis)}
        scaled = self.alpha * orthogonal
        return Components(parallel, scaled, scaled, self.axis, self.eps, self.clamp, extras)


class ReZeroConstrained(Connection):
    """``y = x + cos(theta) * u_parallel + sin(theta) * u_orthogonal``, theta learned.

    Args:
        site: the place in the trunk.
        base: which coefficient splits the update: ``linear`` divides by ``max(<x,x>, eps)``, ``orthogonal`` by
            ``<x,x> + eps``.
        dim: axes of the inner products; left out, the feature axis.
        eps: lower bound of, or added to, the squared norm.
        start: first value of theta in radians. 0, the authors' choice, adds only the parallel part at first;
            ``pi/2`` starts as the orthogonal update, ``pi/4`` as a scaled plain sum.

    Reference:
        The authors' code of arXiv:2505.11881, ``residual_pattern`` rezero_constrained.
    """

    def __init__(
        self,
        site: Site | None = None,
        *,
        base: Base = "linear",
        dim: Axes | None = None,
        eps: float = 1e-6,
        start: float = 0.0,
    ) -> None:
        super().__init__(site)
        self.is_orthogonal, self.dim, self.mixes_tokens = check_base(base, dim, self.axis)
        self.clamp, self.eps = not self.is_orthogonal, float(eps)
        if not math.isfinite(start):
            raise UsageError(f"start is an angle in radians and must be finite, got {start}")
        self.start = float(start)
        self.theta = nn.Parameter(torch.empty(1)) if "write" in self.site.verbs else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.theta is not None:
            nn.init.constant_(self.theta, self.start)

    def write(self, stream: Stream, update: Tensor, note: Note = None) -> Stream:
        parallel, orthogonal = self._split(stream, update)
        return (stream + parallel + orthogonal).to(stream.dtype)

    def _split(self, stream: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
        assert self.theta is not None, "a site that is written has its angle"
        parallel, orthogonal = decompose(stream, update, self.dim, self.eps, clamp=self.clamp)
        return self.theta.cos() * parallel, self.theta.sin() * orthogonal

    def components(self, stream: Stream, update: Tensor) -> Components:
        assert self.theta is not None, "a site that is written has its angle"
        raw = decompose(stream, update, self.dim, self.eps, clamp=self.clamp)
        parallel, orthogonal = self._split(stream, update)
        extras = {"theta": self.theta, "alpha": self.theta.cos(), "beta": self.theta.sin()}
        applied = update
        if self.is_orthogonal:
            applied = parallel + orthogonal
            extras["f_par_raw_norm2"] = mean_squared_norm(raw[0], self.axis)
            extras["f_ortho_raw_norm2"] = mean_squared_norm(raw[1], self.axis)
        return Components(parallel, orthogonal, applied, self.axis, self.eps, self.clamp, extras)
