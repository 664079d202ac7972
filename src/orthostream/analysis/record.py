"""Listening at the writes of a model: what each site's update did to the stream, without touching the model.

While a recording listens, ``write`` of every connection is shadowed on the instance; the shadow computes the
statistics of :mod:`orthostream.analysis.metrics` on detached tensors and copies them into the site's own row of one
table on the model's device. Stopped, the shadows are gone and nothing is computed. Three choices keep compiled models
at one graph more, for all sites and all later recordings: a site gets its row as a tensor and not as an index, values
are assigned and never counted or added (so the second forward of gradient checkpointing repeats the first), and the
table is allocated once and filled again.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from orthostream.analysis.log_keys import PLACE, as_log
from orthostream.analysis.metrics import METRICS, site_metrics
from orthostream.analysis.text_table import aligned
from orthostream.connections.base import Connection
from orthostream.errors import UsageError
from orthostream.shapes import Note, Stream

# Stands in the column of a squared norm, which is never negative, until a forward reaches the site.
UNREACHED = -1.0


@contextmanager
def record(model: nn.Module) -> Iterator["Recording"]:
    """Listen at every site of a model while the block runs; the values can be read inside and afterwards.

    Args:
        model: any module that holds connections; DDP and ``torch.compile`` wrappers are looked through.

    Yields:
        The :class:`Recording`; of several forwards it keeps the last.

    Raises:
        UsageError: where the model has no connection that writes, or another recording listens already.

    Example:
        >>> from orthostream import connections
        >>> connection = connections.create("orthogonal")
        >>> with record(connection) as recording:
        ...     y = connection(torch.ones(1, 2, 4), torch.relu)
        >>> [round(row["cos_x_out"], 3) for row in recording.table()]
        [1.0]
    """
    recording = Recording(model)
    recording.start()
    try:
        yield recording
    finally:
        recording.stop()


class Recording:
    """Statistics of every site of one model, taken between :meth:`start` and :meth:`stop`.

    Args:
        model: any module that holds connections. Connections inside other connections belong to their wrapper and
            are not listed on their own.

    Raises:
        UsageError: where the model has no connection that writes.

    Attributes:
        sites: the facts about each site, in the order of the model.
        columns: names of the values; the six of ``METRICS``, then what single rules add.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        found = list(_writers(model))
        if not found:
            seen = sorted({type(module).__name__ for module in model.modules()})
            raise UsageError(
                "nothing to record: the model has no orthostream connection that writes; it is made of "
                f"{', '.join(seen)}. Build it with orthostream.models, or with connections from orthostream.connections"
            )
        self._connections = [connection for _, connection in found]
        self.sites = tuple(replace(c.site, name=c.site.name or path) for path, c in found)
        device = _device(model)
        self._names = [_value_names(connection, device) for connection in self._connections]
        self.columns = tuple(dict.fromkeys(METRICS + tuple(name for names in self._names for name in names)))
        self._values: Tensor | None = None

    @property
    def is_listening(self) -> bool:
        """Whether the writes are heard now."""
        return any(getattr(c.__dict__.get("write"), "recording", None) is self for c in self._connections)

    def start(self) -> None:
        """Forget earlier values and listen from the next forward on.

        Raises:
            UsageError: where another recording listens to this model.
        """
        self.stop()
        if any("write" in connection.__dict__ for connection in self._connections):
            raise UsageError("another recording listens to this model; stop that one first")
        # Forwards outside inference mode could not write into a table that was made inside it.
        with torch.inference_mode(False):
            values = self._emptied()
        for row, connection in zip(values, self._connections, strict=True):
            connection.__dict__["write"] = _heard(self, connection, row)

    def stop(self) -> None:
        """Listen no longer; the values stay readable. Harmless where nothing listens."""
        for connection in self._connections:
            if getattr(connection.__dict__.get("write"), "recording", None) is self:
                del connection.__dict__["write"]

    def collect(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """The values of all sites and their means under the keys of the log, in one transfer from the device.

        Args:
            reduce: called once with a copy of the table ``[sites, columns]`` (float32, on the model's device) and
                returns one of the same shape, such as the average over ranks. Columns that a rule does not have hold
                NaN, sites that no forward has reached hold a negative ``x_norm2``.

        Returns:
            ``activation/{kind}/block{id:02d}/{metric}`` and the means; see :func:`as_log`.

        Raises:
            UsageError: where nothing was recorded, or two sites would share a key.
        """
        return as_log(self._rows(reduce))

    def table(self) -> "SiteTable":
        """One row a site: ``site``, ``kind``, ``block`` and the values; ``str`` of it is the printed table.

        Raises:
            UsageError: where nothing was recorded.
        """
        return SiteTable(self._rows(None))

    def _rows(self, reduce: Callable[[Tensor], Tensor] | None) -> list[dict[str, Any]]:
        if self._values is None:
            raise UsageError("nothing was recorded: call start() before the forward that is to be heard")
        values = self._values.clone() if reduce is None else reduce(self._values.clone())
        rows = [
            {"site": site.name, "kind": site.kind, "block": site.block}
            | {name: value for name, value in zip(self.columns, numbers, strict=True) if name in names}
            for site, names, numbers in zip(self.sites, self._names, values.tolist(), strict=True)
            if not numbers[0] < 0
        ]
        if not rows:
            raise UsageError("nothing was recorded: no forward of the model ran between start() and this call")
        return rows

    def _emptied(self) -> Tensor:
        """The table without values, on the device where the model is now."""
        device = _device(self._model)
        if self._values is None or self._values.device != device:
            self._values = torch.empty(len(self.sites), len(self.columns), dtype=torch.float32, device=device)
        self._values.fill_(math.nan)
        self._values[:, 0] = UNREACHED
        return self._values


class SiteTable(list[dict[str, Any]]):
    """Rows of a recording, one a site; printed as aligned text."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        super().__init__(rows)

    def __str__(self) -> str:
        names = list(dict.fromkeys(name for row in self for name in row if name not in PLACE))
        cells = [[row["site"], *(f"{row[name]:.4g}" if name in row else "" for name in names)] for row in self]
        return aligned(["site", *names], cells, "l" + "r" * len(names))


def _writers(module: nn.Module) -> Iterator[tuple[str, Connection]]:
    """Connections that are asked to write, each once, outermost only, with their module paths."""
    seen: set[nn.Module] = set()

    def visit(module: nn.Module, path: str) -> Iterator[tuple[str, Connection]]:
        if module in seen:
            return
        seen.add(module)
        if isinstance(module, Connection):
            if "write" in module.site.verbs:
                yield path, module
            return
        for name, child in module.named_children():
            yield from visit(child, f"{path}.{name}" if path else name)

    return visit(module, "")


def _device(model: nn.Module) -> torch.device:
    """Where the model is; a model without tensors is on the CPU."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _value_names(connection: Connection, device: torch.device) -> tuple[str, ...]:
    """What this rule reports, found by asking it about one vector, before any compiled code needs to know."""
    features = connection.site.features or 1
    shape = (1, 1, features) if connection.axis == -1 else (1, features, 1, 1)
    with torch.no_grad():
        x = torch.ones(shape, device=device)
        return tuple(_measure(connection, connection.expand(x), x))


def _measure(connection: Connection, stream: Stream, update: Tensor) -> dict[str, Tensor]:
    stream, update = _wide(stream), _wide(update)
    return site_metrics(connection.summary(stream), connection.components(stream, update))


def _wide(stream: Stream) -> Stream:
    """The stream detached, in float32 at least: parts in half precision would be rounded before they are squared."""
    if isinstance(stream, Tensor):
        return stream.detach().to(torch.promote_types(stream.dtype, torch.float32))
    if isinstance(stream, tuple):
        widened = [_wide(part) for part in stream]
        return type(stream)(*widened) if hasattr(stream, "_fields") else tuple(widened)
    return stream


def _heard(recording: Recording, connection: Connection, row: Tensor) -> Callable[..., Stream]:
    """``write`` of the connection, with its statistics copied into ``row`` on the way."""
    written, columns = connection.write, recording.columns

    def heard(stream: Stream, update: Tensor, note: Note = None) -> Stream:
        with torch.no_grad():
            values = _measure(connection, stream, update)
            row.copy_(torch.stack([values.get(name, row.new_full((), math.nan)) for name in columns]))
        return written(stream, update, note)

    heard.recording = recording  # type: ignore[attr-defined]
    return heard
