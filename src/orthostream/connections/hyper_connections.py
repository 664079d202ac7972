"""Hyper-Connections: n parallel streams, read and mixed with static or dynamic coefficients."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from orthostream.connections.base import Connection, Site, identity
from orthostream.errors import UsageError, unknown
from orthostream.ops import read_streams, write_streams
from orthostream.ops.autocast import autocast_off
from orthostream.shapes import Note, Stream

Norm: TypeAlias = Literal["rms", "layer"]


class Coefficients(NamedTuple):
    """The weights of one site for each token or pixel, which ``read`` hands to ``write`` as its note.

    The mixing acts from the left on the axis of streams.

    Shapes: ``read`` [..., n], ``mixing`` [..., n, n], ``write`` [..., n]; ``X' = mixing X + write (outer) update``.
    """

    read: Tensor
    mixing: Tensor
    write: Tensor


class HyperConnections(Connection):
    """``u = sum_i A_m,i X_i``; ``X' = A_r^T X + b (outer) f(u)``, on n streams of the width of the model.

    With ``N`` the normed streams: ``[A_m | A_r] = s_a act(N W_a) + static_alpha`` and
    ``b = s_b act(N w_b) + static_beta``; ``act`` is tanh or nothing. expand repeats the input on n streams, reduce
    sums them. At its start the rule is the plain residual, up to the factor n that the final norm removes.

    Coefficients and mixing are computed in float32 (float64 for a float64 stream) with autocast off. Mixing and update
    are one operation: a stream of half precision is rounded once a site. With ``norm="rms"`` the gradient of a stream
    of zeros through the dynamic part is divided by the norm's floor of 1e-12, as in the reference code.

    Args:
        site: the place in the trunk; needs its ``features`` where coefficients are dynamic. Its ``index`` picks
            the stream that is read at first.
        streams: n, how many streams; they are the axis before the features, ``[B, T, n, C]`` or ``[B, n, C, H, W]``.
        dynamic: whether coefficients depend on the stream.
        tanh: whether the dynamic part is bounded.
        norm: of each stream before the dynamic part: ``rms`` (reference code) or ``layer`` (paper).
        scale: first value of the two gates of the dynamic part.

    Raises:
        UsageError: for less than one stream, an unknown norm, or a dynamic rule at a site of unknown width.

    Example:
        >>> import torch
        >>> connection = HyperConnections(streams=2, dynamic=False)
        >>> stream = connection.expand(torch.tensor([[1.0, 2.0, 3.0]]))
        >>> branch_input, note = connection.read(stream)
        >>> stream = connection.write(stream, branch_input, note)
        >>> connection.reduce(stream).tolist()
        [[4.0, 8.0, 12.0]]

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
        self.is_dynamic, self.is_bounded = dynamic, tanh
        self.layout = ("streams", streams)
        # Streams stand just before the features: -2 in [B, T, n, C], 1 in [B, n, C, H, W].
        self.streams_axis = -2 if self.axis == -1 else self.axis
        self.writes = "write" in self.site.verbs
        if not self.writes:
            return
        self.static_alpha = nn.Parameter(torch.empty(streams, 1 + streams))
        self.static_beta = nn.Parameter(torch.empty(streams))
        if dynamic:
            features = self.site.features
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
        if not self.writes:
            return
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            # An uneven read breaks the symmetry between streams; equal parameters would keep them equal.
            self.static_alpha[self.site.index % self.streams, 0] = 1
            self.static_alpha[:, 1:].fill_diagonal_(1)
            self.static_beta.fill_(1)
            if self.is_dynamic:
                self.dynamic_alpha_scale.fill_(self.scale)
                self.dynamic_beta_scale.fill_(self.scale)

    def expand(self, x: Tensor) -> Stream:
        axis = x.ndim - 1 if self.axis == -1 else self.axis
        return x.unsqueeze(axis).expand(*x.shape[:axis], self.streams, *x.shape[axis:]).contiguous()

    def read(self, stream: Stream, norm: Callable[[Any], Any] = identity) -> tuple[Any, Note]:
        weights = self.coefficients(stream)
        return norm(read_streams(stream, weights.read, self.streams_axis)), weights

    def write(self, stream: Stream, update: Tensor, note: Note = None) -> Stream:
        if not isinstance(note, Coefficients):
            raise UsageError("hyper_connections write with what read computed: pass the note that read returned")
        return write_streams(stream, update, note.mixing, note.write, self.streams_axis)

    def reduce(self, stream: Stream) -> Tensor:
        result: Tensor = stream.sum(self.streams_axis)
        return result

    def summary(self, stream: Stream) -> Tensor:
        result: Tensor = stream.mean(self.streams_axis)
        return result

    def coefficients(self, stream: Stream) -> Coefficients:
        """The weights with which this site reads, mixes and writes a stream; in float32 or float64."""
        with autocast_off(stream):
            return self._coefficients(self._to_rows(stream))

    def _coefficients(self, rows: Tensor) -> Coefficients:
        # A row for each stream: its weight in the read, in each stream after the mixing, and that of the update in it.
        table = torch.cat([self.static_alpha, self.static_beta.unsqueeze(-1)], -1).to(rows.dtype)
        if self.is_dynamic:
            dynamic = self._projected(rows)
            gates = torch.cat([self.dynamic_alpha_scale.expand(1 + self.streams), self.dynamic_beta_scale])
            table = gates.to(rows.dtype) * (dynamic.tanh() if self.is_bounded else dynamic) + table
        else:
            table = table.expand(*rows.shape[:-2], *table.shape)
        # Stored from source (row) to target (column), as in the paper.
        return Coefficients(table[..., 0], table[..., 1:-1].mT, table[..., -1])

    def _projected(self, rows: Tensor) -> Tensor:
        """``N [W_a | w_b]``, the columns of the table before bound and gate."""
        columns = torch.cat([self.dynamic_alpha_fn, self.dynamic_beta_fn.unsqueeze(-1)], -1).to(rows.dtype)
        gain = 1 + self.norm_gamma.to(rows.dtype)
        width = rows.shape[-1]
        if self.norm_bias is not None:
            return functional.layer_norm(rows, (width,), gain, self.norm_bias.to(rows.dtype), 1e-5) @ columns
        # The gain goes into the columns and the norm is divided out last: no normed copy of the stream is made.
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(1e-12)
        return (rows @ (gain.unsqueeze(-1) * columns)) * (width**0.5 / length)

    def _to_rows(self, stream: Tensor) -> Tensor:
        """Streams and features as the last two axes, in float32 at least."""
        wide = stream.to(torch.promote_types(stream.dtype, torch.float32))
        return wide if self.axis == -1 else wide.movedim((self.axis, self.axis + 1), (-2, -1))

    def extra_repr(self) -> str:
        return f"streams={self.streams}, dynamic={self.is_dynamic}, tanh={self.is_bounded}, norm={self.norm}"
