"""ReZero: a learned scalar in front of the update, and its constrained form on the unit circle."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from orthostream.connections.base import Components, Connection, Site
from orthostream.connections.projection import (
    Base,
    axes_mix_tokens,
    checked_eps,
    is_orthogonal,
    mean_squared_norm,
    reduction_axes,
    widened,
)
from orthostream.errors import UsageError
from orthostream.ops import orthogonal_update
from orthostream.ops.orthogonal_update.reference import accumulation_dtype
from orthostream.shapes import Axes, Note, Stream


class ReZero(Connection):
    """``y = x + alpha * u``, or ``y = x + alpha * u_orthogonal`` on the orthogonal base; alpha starts at 0.

    Args:
        site: the place in the trunk.
        base: ``linear`` or ``orthogonal``.
        dim: axes of the inner products; left out, the feature axis.
        eps: added to the squared norm (orthogonal base).

    Raises:
        UsageError: for an unknown base, a negative eps, or axes that are no axes.

    Example:
        >>> import torch
        >>> connection = ReZero()
        >>> connection.write(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0])).tolist()
        [2.0, 0.0]

    Reference:
        Bachlechner et al., ReZero is All You Need, UAI 2021, arXiv:2003.04887, equation 1; on the orthogonal
        base: the authors' code of arXiv:2505.11881.
    """

    def __init__(
        self, site: Site | None = None, *, base: Base = "linear", dim: Axes | None = None, eps: float = 1e-6
    ) -> None:
        super().__init__(site)
        self.is_orthogonal, self.eps = is_orthogonal(base), checked_eps(eps)
        self.clamp, self.dim = not self.is_orthogonal, reduction_axes(dim, self.axis)
        # The plain base takes no inner product when it writes.
        self.mixes_tokens = self.is_orthogonal and axes_mix_tokens(self.dim, self.axis)
        self.alpha = nn.Parameter(torch.empty(1)) if "write" in self.site.verbs else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.alpha is not None:
            nn.init.zeros_(self.alpha)

    def write(self, stream: Stream, update: Tensor, note: Note = None) -> Stream:
        assert self.alpha is not None, "a site that is written has its scalar"
        if self.is_orthogonal:
            return orthogonal_update(stream, update, self.dim, self.eps, self.alpha, update_weight=self.alpha)
        wide_stream, wide_update, dtype = widened(stream, update)
        return torch.addcmul(wide_stream, self.alpha.to(dtype), wide_update).to(stream.dtype)

    def components(self, stream: Stream, update: Tensor) -> Components:
        assert self.alpha is not None, "a site that is written has its scalar"
        pieces = super().components(stream, update)
        if not self.is_orthogonal:
            return replace(pieces, extras={"alpha": self.alpha})
        scaled = self.alpha * pieces.orthogonal
        extras = {"alpha": self.alpha, "f_ortho_raw_norm2": mean_squared_norm(pieces.orthogonal, self.axis)}
        return replace(pieces, orthogonal=scaled, applied=scaled, extras=extras)


class ReZeroConstrained(Connection):
    """``y = x + cos(theta) * u_parallel + sin(theta) * u_orthogonal``, theta learned.

    Args:
        site: the place in the trunk.
        base: which coefficient splits the update: ``linear`` divides by ``max(<x,x>, eps)``, ``orthogonal`` by
            ``<x,x> + eps``.
        dim: axes of the inner products; left out, the feature axis.
        eps: lower bound of, or added to, the squared norm.
        start: first value of theta in radians. 0, the authors' choice, adds only the parallel part at first;
            ``pi/2`` starts as the orthogonal update, ``pi/4`` as the plain sum with the update scaled by
            ``sqrt(1/2)``.

    Raises:
        UsageError: for an unknown base, a negative eps, axes that are no axes, or an angle that is not finite.

    Example:
        >>> import torch
        >>> connection = ReZeroConstrained()
        >>> connection.write(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0])).tolist()
        [3.0, 0.0]

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
        self.is_orthogonal, self.eps = is_orthogonal(base), checked_eps(eps)
        self.clamp, self.dim = not self.is_orthogonal, reduction_axes(dim, self.axis)
        self.mixes_tokens = axes_mix_tokens(self.dim, self.axis)
        if not math.isfinite(start):
            raise UsageError(f"start is an angle in radians and must be finite, got {start}")
        self.start = float(start)
        self.theta = nn.Parameter(torch.empty(1)) if "write" in self.site.verbs else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.theta is not None:
            nn.init.constant_(self.theta, self.start)

    def write(self, stream: Stream, update: Tensor, note: Note = None) -> Stream:
        assert self.theta is not None, "a site that is written has its angle"
        # cos s x + sin (u - s x) = sin u - (sin - cos) s x, with trigonometry in float32 at least
        theta = self.theta.to(accumulation_dtype(stream, update))
        sine = theta.sin()
        return orthogonal_update(
            stream, update, self.dim, self.eps, sine - theta.cos(), update_weight=sine, clamp=self.clamp
        )

    def components(self, stream: Stream, update: Tensor) -> Components:
        assert self.theta is not None, "a site that is written has its angle"
        raw = super().components(stream, update)
        cosine, sine = self.theta.cos(), self.theta.sin()
        parallel, orthogonal = cosine * raw.parallel, sine * raw.orthogonal
        extras = {"theta": self.theta, "alpha": cosine, "beta": sine}
        applied = update
        if self.is_orthogonal:
            applied = parallel + orthogonal
            extras["f_par_raw_norm2"] = mean_squared_norm(raw.parallel, self.axis)
            extras["f_ortho_raw_norm2"] = mean_squared_norm(raw.orthogonal, self.axis)
        return replace(raw, parallel=parallel, orthogonal=orthogonal, applied=applied, extras=extras)
