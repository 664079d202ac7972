"""A learned scale on the stream itself, beside the orthogonal part of the update."""

from dataclasses import replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

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
from orthostream.errors import UsageError, unknown
from orthostream.ops import decompose, orthogonal_update
from orthostream.ops.autocast import autocast_off
from orthostream.ops.orthogonal_update.reference import accumulation_dtype
from orthostream.shapes import Axes, Note, Stream

Mode: TypeAlias = Literal["scalar", "conv1x1"]


class RescaleStream(Connection):
    """``y = (1 + a) x + u_orthogonal`` (scalar), or ``y = W x + u_orthogonal`` (conv1x1, maps only).

    On either base the parallel part of the update is dropped: at its start the rule equals the orthogonal
    update. The base decides the coefficient alone: ``linear`` divides by ``max(<x,x>, eps)``, ``orthogonal`` by
    ``<x,x> + eps``.

    Args:
        site: the place in the trunk; ``conv1x1`` needs its ``features``.
        base: ``linear`` or ``orthogonal``.
        mode: ``scalar``, one number a site starting at 0; ``conv1x1``, a matrix a site starting at the identity.
        dim: axes of the inner products; left out, the feature axis.
        eps: lower bound of, or added to, the squared norm.

    Raises:
        UsageError: for an unknown base or mode, a negative eps, axes that are no axes, conv1x1 away from a map,
            or where the width of its site is not known.

    Example:
        >>> import torch
        >>> connection = RescaleStream()
        >>> _ = connection.rescale_alpha.data.fill_(0.5)
        >>> connection.write(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0])).tolist()
        [3.0, 3.0]

    Reference:
        The authors' code of arXiv:2505.11881, ``residual_pattern`` rescale_stream.
    """

    def __init__(
        self,
        site: Site | None = None,
        *,
        base: Base = "linear",
        mode: Mode = "scalar",
        dim: Axes | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(site)
        self.clamp, self.eps = not is_orthogonal(base), checked_eps(eps)
        self.dim = reduction_axes(dim, self.axis)
        self.mixes_tokens = axes_mix_tokens(self.dim, self.axis)
        if mode not in get_args(Mode):
            raise UsageError(unknown("mode of rescale_stream", mode, get_args(Mode)))
        writes = "write" in self.site.verbs
        self.rescale_alpha = nn.Parameter(torch.empty(1)) if writes and mode == "scalar" else None
        self.rescale_proj = self._projection() if mode == "conv1x1" and writes else None
        self.reset_parameters()

    def _projection(self) -> nn.Conv2d:
        width = self.site.features
        if self.axis != 1 or width is None:
            raise UsageError(
                f"rescale_stream with mode='conv1x1' mixes the channels of a map and needs their number; site "
                f"{self.site.name!r} has feature axis {self.axis} and {width} features. "
                "Use mode='scalar' on tokens; by hand pass site=Site(axis=1, features=...)"
            )
        # By way of the meta device, since a random start would move the generator on for all that is made later.
        return nn.Conv2d(width, width, 1, bias=False, device="meta").to_empty(device=torch.get_default_device())

    def reset_parameters(self) -> None:
        if self.rescale_alpha is not None:
            nn.init.zeros_(self.rescale_alpha)
        if self.rescale_proj is not None:
            nn.init.dirac_(self.rescale_proj.weight)

    def write(self, stream: Stream, update: Tensor, note: Note = None) -> Stream:
        if self.rescale_alpha is not None:
            scale = 1 + self.rescale_alpha.to(accumulation_dtype(stream, update))
            return orthogonal_update(stream, update, self.dim, self.eps, stream_weight=scale, clamp=self.clamp)
        wide_stream, wide_update, _ = widened(stream, update)
        _, orthogonal = decompose(wide_stream, wide_update, self.dim, self.eps, clamp=self.clamp)
        return (self._scaled(wide_stream) + orthogonal).to(stream.dtype)

    def _scaled(self, stream: Tensor) -> Tensor:
        if self.rescale_alpha is not None:
            return (1 + self.rescale_alpha.to(stream.dtype)) * stream
        assert self.rescale_proj is not None, "a site that is written has its scale"
        with autocast_off(stream):
            return functional.conv2d(stream, self.rescale_proj.weight.to(stream.dtype))

    def components(self, stream: Stream, update: Tensor) -> Components:
        wide_stream, wide_update, _ = widened(stream, update)
        raw = super().components(wide_stream, wide_update)
        scaled = self._scaled(wide_stream)
        change = scaled - wide_stream
        squared = wide_stream.square().sum(self.axis)
        squared = squared.clamp_min(self.eps) if self.clamp else squared + self.eps
        squared_scaled = scaled.square().sum(self.axis).clamp_min(self.eps)
        extras = {
            "f_par_raw_norm2": mean_squared_norm(raw.parallel, self.axis),
            "scaled_x_norm2": squared_scaled.mean(),
            "stream_scale_ratio": (squared_scaled / squared).mean(),
        }
        if self.rescale_alpha is not None:
            extras |= {"rescale_mode": squared.new_zeros(()), "rescale_alpha": self.rescale_alpha}
        elif self.rescale_proj is not None:
            norm = self.rescale_proj.weight.norm()
            extras |= {"rescale_mode": squared.new_ones(()), "rescale_conv_weight_norm": norm}
        return replace(raw, parallel=change, applied=change + raw.orthogonal, extras=extras)
