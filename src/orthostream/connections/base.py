"""What a residual connection is: four verbs on a stream, and the facts about its site.

A trunk carries a *stream*. At each *site* a branch reads its input from the stream and returns an
*update*; the connection says how the stream is begun (``expand``), read (``read``), written (``write``)
and ended (``reduce``). The plain residual is ``write = stream + update`` and the identity elsewhere.
Models know the four verbs and no connection by name; connections know no model.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from orthostream.ops import decompose
from orthostream.shapes import Axes, Note, Stream

ALL_VERBS = frozenset({"expand", "read", "write", "reduce"})


def identity(x: Any) -> Any:
    """The norm of a branch that has none."""
    return x


@dataclass(frozen=True, kw_only=True)
class Site:
    """Facts about one place of a trunk, known before any parameter exists.

    Connections look at these in ``__init__`` only: an attribute that differs from site to site and is read
    inside a verb would cost one compiled graph for each block.

    Args:
        name: module path of the branch, such as ``blocks.3.attn``.
        kind: ``attn``, ``mlp`` or ``conv``; groups statistics.
        features: width of the stream when it is written here.
        axis: where the features are: -1 for tokens, 1 for maps.
        index: place among all sites of the trunk, from 0.
        count: how many sites the trunk has.
        since: sites since the stream was begun or last changed its shape.
        block: index of the block, from 0.
        blocks: how many blocks the trunk has.
        verbs: what this instance will be asked for; a parameter exists only where its verb is asked.
    """

    name: str = ""
    kind: str = ""
    features: int | None = None
    axis: int = -1
    index: int = 0
    count: int = 1
    since: int = 0
    block: int = 0
    blocks: int = 1
    verbs: frozenset[str] = ALL_VERBS


@dataclass(frozen=True)
class Components:
    """The pieces of one write that the paper's statistics are taken from.

    The parts are those of the raw update where a rule takes them as they are (or drops one), and scaled where it
    scales them.

    Args:
        parallel: the part of the update along the stream, of the shape of the update.
        orthogonal: the rest of the update.
        applied: what takes the place of the update in the cosine with the stream.
        axis: axis of the vectors whose norms are taken.
        eps: added to squared norms, or their lower bound.
        clamp: whether eps is a lower bound (base linear) or added (base orthogonal).
        extras: further numbers of this rule by name, each a tensor of one element.
    """

    parallel: Tensor
    orthogonal: Tensor
    applied: Tensor
    axis: int
    eps: float
    clamp: bool
    # dict[str, Tensor] as the factory would break the graph of a compiled recording.
    extras: dict[str, Tensor] = field(default_factory=dict)


class Connection(nn.Module, ABC):
    """A rule for how branches meet the stream.

    A connection is either this abstract class or final: to change a finished one, wrap it. The stream is
    a tensor or a tuple of tensors, changed out of place only; parallel streams are an axis just before the
    features. Learned scalars have shape ``[1]``; numbers that change between steps are float32 buffers of
    shape ``()``, not persistent. Coefficients are computed in float32 with autocast off.

    Args:
        site: the facts about the place; by hand, ``None`` means all four verbs on one object.

    Example:
        >>> import torch
        >>> class Halved(Connection):
        ...     def write(self, stream, update, note=None):
        ...         return stream + update / 2
        >>> Halved()(torch.ones(2), branch=lambda x: 4 * x)
        tensor([3., 3.])
    """

    # What kind of stream this rule carries; sites of one trunk must agree.
    layout: tuple[object, ...] = ("plain",)
    # True where the projection or mixing sees other tokens than its own; such a rule is never causal.
    mixes_tokens: bool = False
    # How the update is split for statistics: over the axes `dim`, with eps as a lower bound of the squared norm
    # (base linear) or added to it (base orthogonal).
    clamp: bool = True
    eps: float = 1e-6
    # Name and options as given to `create`; for rebuilding at another site.
    spec: tuple[str, dict[str, Any]] | None = None

    def __init__(self, site: Site | None = None) -> None:
        super().__init__()
        self.site = site if site is not None else Site()
        self.axis = self.site.axis
        self.dim: Axes = self.axis

    def expand(self, x: Tensor) -> Stream:
        """Begin the stream from the embedded input ``x``."""
        return x

    def read(self, stream: Stream, norm: Callable[[Any], Any] = identity) -> tuple[Any, Note]:
        """Branch input and the note for ``write``; ``norm`` is the branch's own, applied last."""
        return norm(stream), None

    @abstractmethod
    def write(self, stream: Stream, update: Tensor, note: Note = None) -> Stream:
        """The stream after the branch returned ``update``; applies its mixing to a zero update too."""

    @property
    def reads_plainly(self) -> bool:
        """Whether ``read`` is the norm of the stream, without a note: nothing else stands in its place."""
        return getattr(self.read, "__func__", None) is Connection.read

    def write_read(
        self,
        stream: Stream,
        update: Tensor,
        note: Note,
        following: "Connection",
        norm: Callable[[Any], Any] = identity,
        dtype: torch.dtype | None = None,
    ) -> tuple[Stream, Any, Note]:
        """``write`` here, then ``read`` by the connection of the next site; a rule may do both at once.

        Args:
            stream: as for ``write``.
            update: as for ``write``.
            note: as for ``write``, from this connection's own ``read``.
            following: the connection of the next site.
            norm: of the next branch, as for ``read``.
            dtype: of the next branch's input, where that branch would cast it at once; None leaves it as read.

        Returns:
            The stream, the input of the next branch, and the note for ``following.write``.

        Example:
            >>> from orthostream import connections
            >>> first, second = connections.create("linear"), connections.create("linear")
            >>> first.write_read(torch.ones(2), torch.ones(2), None, second, torch.sqrt)
            (tensor([2., 2.]), tensor([1.4142, 1.4142]), None)
        """
        stream = self.write(stream, update, note)
        x, note = following.read(stream, norm)
        return stream, x if dtype is None or not isinstance(x, Tensor) else x.to(dtype), note

    def reduce(self, stream: Stream) -> Tensor:
        """End the stream: the tensor that goes on to the final norm."""
        result: Tensor = stream
        return result

    def summary(self, stream: Stream) -> Tensor:
        """One plain tensor for statistics and stage changes; never has parameters."""
        result: Tensor = stream
        return result

    def project(self, stream: Stream, shortcut: Callable[[Tensor], Tensor]) -> Stream:
        """The stream at a new width or resolution: ends the old stream and begins a new one."""
        return self.expand(shortcut(self.summary(stream)))

    def forward(self, stream: Stream, branch: Callable[[Any], Tensor], norm: Callable[[Any], Any] = identity) -> Stream:
        """Read, run the branch, write."""
        x, note = self.read(stream, norm)
        return self.write(stream, branch(x), note)

    def reset_parameters(self) -> None:
        """Set every parameter and buffer again, from site and options; needed after meta construction."""

    def components(self, stream: Stream, update: Tensor) -> Components:
        """The pieces that statistics are taken from; for analysis only, no part of the four verbs."""
        parallel, orthogonal = decompose(self.summary(stream), update, self.dim, self.eps, clamp=self.clamp)
        return Components(parallel, orthogonal, update, self.axis, self.eps, self.clamp)
