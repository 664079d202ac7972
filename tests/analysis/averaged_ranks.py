"""One rank of a two-rank run: records under DDP and writes what it collected. Arguments: rank, rendezvous, result."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from analysis.trunks import made
from orthostream.analysis import Recording


def averaged(values: torch.Tensor) -> torch.Tensor:
    dist.all_reduce(values)
    return values / dist.get_world_size()


def main(rank: int, rendezvous: str, result: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    trunk, x = made("rezero")
    parallel = DistributedDataParallel(torch.compile(trunk, backend="aot_eager"))
    recording = Recording(parallel)
    for _ in range(2):
        recording.start()
        parallel(x + rank).square().mean().backward()
        recording.stop()
    collected = {"own": recording.collect(), "averaged": recording.collect(averaged), "again": recording.collect()}
    Path(result).write_text(json.dumps(collected))
    del parallel
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
