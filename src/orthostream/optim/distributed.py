"""The same results on every process, each factorisation done once: gradients that are replicated, and row shards.

Chunks of matrices go to owners by cost. A chunk's result depends on its matrices alone, so the division does not
change a bit of it. Tensors of any dtype travel as bytes in one buffer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from orthostream.errors import UsageError
from orthostream.optim.matrices import Layout
from orthostream.optim.rule import Chunk, Rule

# Segments of a buffer begin at multiples of this, so that they can be seen in any dtype.
ALIGNMENT = 16
# The gather of one round runs while the next one is computed.
ROUNDS = 2
# The index under which norms travel.
NORMS = -1


class Execution(Protocol):
    """Applies a rule to gradients, alone or together with other processes."""

    def __call__(
        self, rule: Rule, chunks: Sequence[Chunk], layouts: Sequence[Layout], gradients: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """New tensors in the shapes of ``gradients``, and the Frobenius norm of each whole one."""
        ...


def alone(
    rule: Rule, chunks: Sequence[Chunk], layouts: Sequence[Layout], gradients: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Everything here, in one process."""
    results: dict[int, Tensor] = {}
    for chunk in chunks:
        results |= _run(rule, chunk, layouts, gradients)
    ordered = [results[i] for i in range(len(gradients))]
    return ordered, _norms(ordered, gradients[0])


def owners(chunks: Sequence[Chunk], processes: int) -> list[int]:
    """The process of each chunk: the dearest first, each to the one with the least work so far."""
    load = [0.0] * processes
    owner = [0] * len(chunks)
    for i in sorted(range(len(chunks)), key=lambda i: (-chunks[i].cost, i)):
        owner[i] = min(range(processes), key=load.__getitem__)
        load[owner[i]] += chunks[i].cost
    return owner


@dataclass(frozen=True)
class Replicated:
    """Gradients that are equal on all processes, as DDP leaves them: each process does a share, two gathers in all.

    Args:
        group: the processes.
    """

    group: Any

    def __call__(
        self, rule: Rule, chunks: Sequence[Chunk], layouts: Sequence[Layout], gradients: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        rank, size = dist.get_rank(self.group), dist.get_world_size(self.group)
        owner = owners(chunks, size)
        rounds = [_rounds(chunks, owner, process) for process in range(size)]
        results: dict[int, Tensor] = {}
        gathered: list[tuple[list[_Segments], Tensor, Any]] = []
        for number in range(ROUNDS):
            parts = [
                _Segments(
                    (i, tuple(gradients[i].shape), gradients[i].dtype)
                    for chunk in rounds[process][number]
                    for i in chunk.indices
                )
                for process in range(size)
            ]
            length = max(part.length for part in parts)
            if not length:
                continue
            own = gradients[0].new_empty(length, dtype=torch.uint8)
            for chunk in rounds[rank][number]:
                parts[rank].write(own, _run(rule, chunk, layouts, gradients))
            everyone = own.new_empty(size * length)
            work = dist.all_gather_into_tensor(everyone, own, group=self.group, async_op=True)
            gathered.append((parts, everyone.view(size, length), work))
        for parts, buffers, work in gathered:
            work.wait()
            for part, buffer in zip(parts, buffers, strict=True):
                results |= part.read(buffer)
        ordered = [results[i] for i in range(len(gradients))]
        return ordered, _norms(ordered, gradients[0])

    def check_equal(self, names: Sequence[str], gradients: Sequence[Tensor]) -> None:
        """Compare the gradients of all processes by their norms.

        Raises:
            UsageError: where they differ, naming the first.
        """
        norms = torch.stack([norm.double() for norm in torch._foreach_norm(list(gradients))])
        everyone = norms.new_empty(dist.get_world_size(self.group) * len(norms))
        dist.all_gather_into_tensor(everyone, norms, group=self.group)
        everyone = everyone.view(-1, len(norms))
        differs = ~((everyone == everyone[:1]) | (everyone.isnan() & everyone[:1].isnan())).all(0)
        if bool(differs.any()):
            first = int(differs.nonzero()[0])
            shown = ", ".join(f"{value:.9g}" for value in everyone[:, first].tolist())
            raise UsageError(
                f"the gradient of {names[first]} differs between processes (norms {shown}), so that its "
                "orthogonalisation cannot be shared out; let DistributedDataParallel average gradients before the "
                "step, or leave process_group out: each process then works for itself"
            )


@dataclass(frozen=True)
class Sharded:
    """Gradients of which each process holds some rows, as FSDP2 leaves them: rows go to owners and come back.

    Two exchanges in all: every matrix is put together on one process only.

    Args:
        group: the processes that hold the shards.
    """

    group: Any

    def __call__(
        self, rule: Rule, chunks: Sequence[Chunk], layouts: Sequence[Layout], gradients: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        rank, size = dist.get_rank(self.group), dist.get_world_size(self.group)
        owner = owners(chunks, size)
        owned = [_indices(chunks, owner, process) for process in range(size)]

        def rows(of: int, held_by: int) -> list[_Entry]:
            """The rows that one process holds of the matrices that another one owns."""
            return [(i, _part(layouts[i].shape, held_by, size), gradients[i].dtype) for i in owned[of]]

        arrived = self._exchange(
            [(_Segments(rows(process, rank)), dict(enumerate(gradients))) for process in range(size)],
            [_Segments(rows(rank, process)) for process in range(size)],
        )
        whole = {i: torch.cat([tensors[i] for tensors in arrived]) for i in owned[rank]}
        results: dict[int, Tensor] = {}
        for chunk, process in zip(chunks, owner, strict=True):
            if process == rank:
                results |= _run(rule, chunk, layouts, whole)
        own_norms = _norms([results[i] for i in owned[rank]], gradients[0])

        def returned(of: int, to: int) -> "_Segments":
            return _Segments([*rows(of, to), (NORMS, (len(owned[of]),), torch.float32)])

        home = self._exchange(
            [
                (
                    returned(rank, process),
                    {i: result[_rows(len(result), process, size)] for i, result in results.items()}
                    | {NORMS: own_norms},
                )
                for process in range(size)
            ],
            [returned(process, rank) for process in range(size)],
        )
        own = {i: tensor for tensors in home for i, tensor in tensors.items()}
        norms = own_norms.new_empty(len(gradients))
        for indices, tensors in zip(owned, home, strict=True):
            norms[indices] = tensors[NORMS]
        return [own[i] for i in range(len(gradients))], norms

    def _exchange(
        self, sending: "Sequence[tuple[_Segments, Mapping[int, Tensor]]]", receiving: "Sequence[_Segments]"
    ) -> list[dict[int, Tensor]]:
        """Give each process its part and take one from each."""
        device = next(iter(sending[0][1].values())).device
        out, into = [part.length for part, _ in sending], [part.length for part in receiving]
        sent = torch.empty(sum(out), dtype=torch.uint8, device=device)
        for (part, tensors), segment in zip(sending, torch.split(sent, out), strict=True):
            part.write(segment, tensors)
        received = sent.new_empty(sum(into))
        dist.all_to_all_single(received, sent, into, out, group=self.group)
        return [part.read(segment) for part, segment in zip(receiving, torch.split(received, into), strict=True)]


def shard_group(name: str, tensor: Any) -> Any | None:
    """The processes that share the rows of a distributed tensor; None where each holds all of it.

    Raises:
        UsageError: for a division that is none of rows, naming the tensor.
    """
    sharded = [axis for axis, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    if not sharded:
        return None
    placement = tensor.placements[sharded[0]]
    if len(sharded) > 1 or type(placement).__name__ != "Shard" or placement.dim != 0:
        raise UsageError(
            f"{name} is divided as {tuple(tensor.placements)}; gradients can be put together from shards of the first "
            "axis (fully_shard's default). Leave it out with exclude, or shard it by rows"
        )
    rank, size = tensor.device_mesh.get_local_rank(sharded[0]), tensor.device_mesh.size(sharded[0])
    rows = _rows(tensor.shape[0], rank, size)
    if tensor.to_local().shape[0] != rows.stop - rows.start:
        raise UsageError(
            f"{name}: rank {rank} of {size} holds {tensor.to_local().shape[0]} of {tensor.shape[0]} rows; expected "
            f"{rows.stop - rows.start}, as torch.chunk divides them"
        )
    return tensor.device_mesh.get_group(sharded[0])


def _run(
    rule: Rule, chunk: Chunk, layouts: Sequence[Layout], gradients: Sequence[Tensor] | Mapping[int, Tensor]
) -> dict[int, Tensor]:
    results = rule.run([layouts[i].flatten(gradients[i]) for i in chunk.indices])
    return {i: layouts[i].restore(result, gradients[i]) for i, result in zip(chunk.indices, results, strict=True)}


def _norms(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    if not tensors:
        return like.new_empty(0, dtype=torch.float32)
    return torch.stack([norm.float() for norm in torch._foreach_norm(list(tensors))])


def _indices(chunks: Sequence[Chunk], owner: Sequence[int], process: int) -> list[int]:
    return [i for chunk, of in zip(chunks, owner, strict=True) if of == process for i in chunk.indices]


def _rows(count: int, rank: int, size: int) -> slice:
    """Rows of a process, as ``torch.chunk`` divides them: the last ones may have fewer, or none."""
    each = -(-count // size)
    return slice(min(count, rank * each), min(count, (rank + 1) * each))


def _part(shape: tuple[int, ...], rank: int, size: int) -> tuple[int, ...]:
    rows = _rows(shape[0], rank, size)
    return (rows.stop - rows.start, *shape[1:])


def _rounds(chunks: Sequence[Chunk], owner: Sequence[int], process: int) -> list[list[Chunk]]:
    """The chunks of a process by rounds, about equal work in each."""
    own = [chunk for chunk, of in zip(chunks, owner, strict=True) if of == process]
    whole = sum(chunk.cost for chunk in own) or 1.0
    rounds: list[list[Chunk]] = [[] for _ in range(ROUNDS)]
    done = 0.0
    for chunk in own:
        rounds[min(ROUNDS - 1, int(ROUNDS * done / whole))].append(chunk)
        done += chunk.cost
    return rounds


# Index of a tensor, its shape and dtype.
_Entry: TypeAlias = tuple[int, tuple[int, ...], torch.dtype]


class _Segments:
    """Places of tensors in a buffer of bytes."""

    def __init__(self, entries: Iterable[_Entry]) -> None:
        self._places: list[tuple[_Entry, slice]] = []
        self.length = 0
        for entry in entries:
            _, shape, dtype = entry
            size = prod(shape) * dtype.itemsize
            self._places.append((entry, slice(self.length, self.length + size)))
            self.length += -(-size // ALIGNMENT) * ALIGNMENT

    def write(self, buffer: Tensor, tensors: Mapping[int, Tensor]) -> None:
        """Put those of the tensors that have a place here into it."""
        for (index, shape, dtype), place in self._places:
            if index in tensors:
                buffer[place].view(dtype).view(shape).copy_(tensors[index])

    def read(self, buffer: Tensor) -> dict[int, Tensor]:
        """The tensors in a buffer; views of it."""
        return {index: buffer[place].view(dtype).view(shape) for (index, shape, dtype), place in self._places}
