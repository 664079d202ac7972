"""Suite ``sharing``: the step of an orthogonalised optimizer on several processes, each for itself or sharing the work.

Processes have equal gradients, as DDP leaves them, and one thread each. The time is that of the slowest process, so it
holds all waiting and all collectives. On one machine more processes than cores have nothing to gain.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor
from torch.optim import SGD

from benchmarks.cases import Case, Outcome, Setting, Skip
from benchmarks.rows import timed_row
from benchmarks.suites.optimizer import NETWORKS, Network
from benchmarks.turns import WARM_UP, WallClock
from orthostream import optim
from orthostream.optim import transform

ALONE, SHARED = "each for itself", "shared"


def cases(device: torch.device) -> list[Case]:
    """A network of many small matrices and one of large ones, on two and three processes."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        raise Skip("sharing needs two devices, and torch sees one")
    chosen = [network for network in NETWORKS if network.name in ("resnet20", "vit_s")]
    return [
        Case(f"{network.case}, {size} processes", partial(measure, network, size))
        for network in chosen
        for size in (2, 3)
        if device.type == "cpu" or size <= torch.cuda.device_count()
    ]


def measure(network: Network, size: int, setting: Setting) -> Iterator[Outcome]:
    """One row: the slowest process of each turn."""
    with tempfile.TemporaryDirectory() as folder:
        work = Work(network, size, setting.device.type, setting.rounds, folder)
        multiprocessing.spawn(work, nprocs=size)
        times = torch.stack([torch.load(work.result(rank), weights_only=True) for rank in range(size)]).amax(0)
    name = f"{network.case}, {size} processes"
    yield timed_row("sharing", name, ALONE, SHARED, times[0].tolist(), times[1].tolist())


@dataclass(frozen=True)
class Work:
    """What each process does; plain values, so that they can be told."""

    network: Network
    size: int
    device: str
    rounds: int
    folder: str

    def result(self, rank: int) -> Path:
        """File of the times of a process: seconds [2, rounds], each for itself and shared."""
        return Path(self.folder) / f"{rank}.pt"

    def __call__(self, rank: int) -> None:
        torch.set_num_threads(1)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        device = torch.device(self.device, rank) if self.device == "cuda" else torch.device("cpu")
        dist.init_process_group(
            "nccl" if self.device == "cuda" else "gloo",
            init_method=f"file://{self.folder}/meeting",
            rank=rank,
            world_size=self.size,
        )
        try:
            torch.save(self.times(device), self.result(rank))
            dist.barrier()
        finally:
            dist.destroy_process_group()

    def times(self, device: torch.device) -> Tensor:
        """Both ways in turn; processes begin each step together."""
        # Little work is not shared; here it is measured what sharing would cost.
        transform.LEAST_SHARED = 0.0
        clock, sides = WallClock(device), []
        for group in (None, dist.group.WORLD):
            model = self.network.build(device)
            generator = torch.Generator().manual_seed(0)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
            optimizer = SGD(model.parameters(), 1e-4, momentum=0.9)
            sides.append(optim.orthogonalize(optimizer, model, process_group=group).step)
        for step in sides:
            for _ in range(WARM_UP):
                step()
        found = torch.zeros(2, self.rounds)
        for turn in range(self.rounds):
            for side in (0, 1) if turn % 2 == 0 else (1, 0):
                dist.barrier()
                found[side, turn] = clock.seconds(sides[side], 1)
        return found
