"""Hyper-Connections: n parallel streams, read and mixed with static or dynamic coefficients."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from orthostream.connections.base import Connection, Site, identity
from orthostream.errors import UsageError, unknown
from orthostream.shapes import Note, Stream

Norm: TypeAlias = Literal["rms", "layer"]


class Mixed(NamedTuple):
    """What ``read`` hands to ``write``: the streams after mixing, and the weight of the update in each."""

    streams: Tensor
    write_weights: Tensor


class HyperConnections(Connection):
    """``u = sum_i A_m,i X_i``; ``X' = A_r^T X + b (outer) f(u)``, on n streams of the width of the model.

    With ``N`` the normed streams: ``[A_m | A_r] = s_a act(N W_a) + static_alpha`` and
    ``b = s_b act(N w_b) + static_beta``; ``act`` is tanh or nothing. expand repeats the input on n streams, reduce
    sums them. At its start the rule is the plain residual, up to the factor n that the final norm removes.

    Args:
        site: the place in the trunk; needs its ``features`` where coefficients are dynamic. Its ``index`` picks
            the stream that is read at first.
        streams: n, how many streams.
        dynamic: whether coefficients depend on the stream.
        tanh: whether the dynamic part is bounded.
        norm: of each stream before the dynamic part: ``rms`` (reference code) or ``layer`` (paper).
        scale: first value of the two gates of the dynamic part.

    Raises:
        UsageError: for less than one stream, or an unknown norm.

    Reference:
        Zhu et al., Hyper-Connections, ICLR 2025, arXiv:2409.19606, equations 1 to 14.
    """

    def __init__(
        self,
        site: Site | None = None,
        *,
        streams: int = 4,
        dynamic: bool = True,
        tanh: bool = True,
        norm: Norm = "rms",
        scale: float = 0.01,
    ) -> None:
        super().__init__(site)
        if streams < 1:
            raise UsageError(f"hyper_connections needs one stream or more, got streams={streams}")
        if norm not in get_args(Norm):
            raise UsageError(unknown("norm of hyper_connections", norm, get_args(Norm)))
        self.streams, self.scale, self.norm = streams, float(scale), norm
        self.is_bounded = tanh
        self.layout = ("streams", streams)
        self.is_dynamic = dynamic
        features = self.site.features
        if "write" not in self.site.verbs:
            return
        self.static_alpha = nn.Parameter(torch.empty(streams, 1 + streams))
        self.static_beta = nn.Parameter(torch.empty(streams))
        if dynamic:
            if features is None:
                raise UsageError(
                    "dynamic hyper_connections need the width of the stream: "
                    "pass site=Site(features=...), or dynamic=False"
                )
            self.dynamic_alpha_fn = nn.Parameter(torch.empty(features, 1 + streams))
            self.dynamic_beta_fn = nn.Parameter(torch.empty(features))
            self.dynamic_alpha_scale = nn.Parameter(torch.empty(1))
            self.dynamic_beta_scale = nn.Parameter(torch.empty(1))
            # The gain is stored as its distance from one, as in the reference code.
            self.norm_gamma = nn.Parameter(torch.empty(features))
            self.norm_bias = nn.Parameter(torch.empty(features)) if norm == "layer" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if "write" not in self.site.verbs:
            return
        with torch.no_grad():
            # An uneven read breaks the symmetry between streams; equal parameters would keep them equal.
            self.static_alpha.zero_()
            self.static_alpha[self.site.index % self.streams, 0] = 1
            self.static_alpha[:, 1:].fill_diagonal_(1)
            self.static_beta.fill_(1)
            if self.is_dynamic:
                self.dynamic_alpha_scale.fill_(self.scale)
                self.dynamic_beta_scale.fill_(self.scale)
                for zeroed in (self.dynamic_alpha_fn, self.dynamic_beta_fn, self.norm_gamma, self.norm_bias):
                    if zeroed is not None:
                        zeroed.zero_()

    @property
    def _streams_axis(self) -> int:
        """Streams stand just before the features: [B, T, n, C] and [B, n, C, H, W]."""
        return -2 if self.axis == -1 else self.axis

    def expand(self, x: Tensor) -> Stream:
        axis = x.ndim - 1 if self.axis == -1 else self.axis
        return x.unsqueeze(axis).expand(*x.shape[:axis], self.streams, *x.shape[axis:]).contiguous()

    def read(self, stream: Stream, norm: Callable[[Any], Any] = identity) -> tuple[Any, Note]:
        # Coefficients and mixing stay out of autocast, or every site would round the streams.
        with torch.autocast(stream.device.type, enabled=False):
            rows = self._rows(stream)
            alpha, beta = self._coefficients(rows)
            read_weights, mixing = alpha[..., 0], alpha[..., 1:]
            branch_input = (read_weights.unsqueeze(-2) @ rows).squeeze(-2)
            mixed = mixing.transpose(-1, -2) @ rows
            note = Mixed(self._maps(mixed.to(stream.dtype)), beta)
            return norm(self._map(branch_input.to(stream.dtype))), note

    def write(self, stream: Stream, update: Tensor, note: Note = None) -> Stream:
        assert isinstance(note, Mixed), "write needs the note that read returned"
        weights, wide = note.write_weights, update.to(note.write_weights.dtype)
        if self.axis == 1:
            spread = weights.movedim(-1, 1).unsqueeze(2) * wide.unsqueeze(1)
        else:
            spread = weights.unsqueeze(-1) * wide.unsqueeze(-2)
        return (note.streams + spread).to(stream.dtype)

    def reduce(self, stream: Stream) -> Tensor:
        result: Tensor = stream.sum(self._streams_axis)
        return result

    def summary(self, stream: Stream) -> Tensor:
        result: Tensor = stream.mean(self._streams_axis)
        return result

    def _coefficients(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """``[A_m | A_r]`` of shape [..., n, 1+n] and ``b`` of shape [..., n]."""
        dtype = rows.dtype
        alpha, beta = self.static_alpha.to(dtype), self.static_beta.to(dtype)
        if not self.is_dynamic:
            return alpha.expand(*rows.shape[:-2], *alpha.shape), beta.expand(*rows.shape[:-2], *beta.shape)
        normed = self._normed(rows)
        dynamic_alpha = normed @ self.dynamic_alpha_fn.to(dtype)
        dynamic_beta = normed @ self.dynamic_beta_fn.to(dtype)
        if self.is_bounded:
            dynamic_alpha, dynamic_beta = dynamic_alpha.tanh(), dynamic_beta.tanh()
        return (
            self.dynamic_alpha_scale.to(dtype) * dynamic_alpha + alpha,
            self.dynamic_beta_scale.to(dtype) * dynamic_beta + beta,
        )

    def _normed(self, rows: Tensor) -> Tensor:
        gain = 1 + self.norm_gamma.to(rows.dtype)
        width = rows.shape[-1]
        if self.norm_bias is not None:
            return functional.layer_norm(rows, (width,), gain, self.norm_bias.to(rows.dtype), 1e-5)
        return functional.normalize(rows, dim=-1, eps=1e-12) * width**0.5 * gain

    def _rows(self, stream: Tensor) -> Tensor:
        """Streams and features as the last two axes, in float32 at least."""
        wide = stream.to(torch.promote_types(stream.dtype, torch.float32))
        return wide if self.axis == -1 else wide.movedim((1, 2), (-2, -1))

    def _maps(self, rows: Tensor) -> Tensor:
        return rows if self.axis == -1 else rows.movedim((-2, -1), (1, 2))

    def _map(self, rows: Tensor) -> Tensor:
        return rows if self.axis == -1 else rows.movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"streams={self.streams}, dynamic={self.is_dynamic}, tanh={self.is_bounded}, norm={self.norm}"
