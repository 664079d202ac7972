"""The processes of one run: a single one, or those that torchrun started."""

import gc
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from orthostream.errors import UsageError

DeviceChoice = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class World:
    """This process among those of the run.

    Without torchrun the world has one member and no process group exists; every method then returns its
    argument, so that callers need no second path.

    Args:
        rank: index of this process, from 0.
        size: how many processes.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the terminal."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        return self.size > 1

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over the processes; the tensor itself is left as it was."""
        if not self.is_distributed:
            return tensor
        summed = tensor.clone()
        dist.all_reduce(summed)
        return summed

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over the processes."""
        return self.total(tensor) / self.size

    def largest(self, value: int) -> int:
        """The largest of the integers that the processes hold; runs on the CPU, so no device waits."""
        if not self.is_distributed:
            return value
        held = torch.tensor(value)
        dist.all_reduce(held, dist.ReduceOp.MAX)
        return int(held)

    def gather(self, value: Any) -> list[Any]:
        """The small picklable values of all processes, in order of rank; empty away from rank 0."""
        if not self.is_distributed:
            return [value]
        received: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, received)
        return received or []

    def share(self, value: Any) -> Any:
        """The value that rank 0 holds."""
        if not self.is_distributed:
            return value
        held = [value]
        dist.broadcast_object_list(held)
        return held[0]

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Give the tensors of every process the values that rank 0 holds."""
        if self.is_distributed:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)


def open_world(device: DeviceChoice = "auto", timeout: int = 1800) -> World:
    """Join the processes that torchrun started, or stand alone.

    Args:
        device: ``cpu``, ``cuda``, or ``auto``: CUDA where there is one.
        timeout: seconds after which a collective that some rank never joins is an error.

    Raises:
        UsageError: for CUDA where there is none, or fewer devices than local ranks.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise UsageError("device 'cuda' was asked for, but torch sees no CUDA device; use train.device=cpu or auto")
    on_cuda = has_cuda and device != "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if on_cuda and local_rank >= torch.cuda.device_count():
        raise UsageError(
            f"local rank {local_rank} has no GPU of its own: this machine has {torch.cuda.device_count()}; "
            "start as many processes as there are GPUs, or use train.device=cpu"
        )
    place = torch.device("cuda", local_rank) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(place)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return World(0, 1, place)
    size = int(os.environ["WORLD_SIZE"])
    if size > 1:
        # Control messages travel by gloo on the CPU even where tensors travel by NCCL.
        backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    return World(int(os.environ["RANK"]), size, place)


def close_world(world: World) -> None:
    """Leave the process group in step with the others.

    gloo's threads may abort a process that has succeeded if groups are torn down while a peer still holds
    references to them; collecting garbage and meeting at a barrier first avoids it. Drop model and
    optimizer before.
    """
    if world.is_distributed and dist.is_initialized():
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()
