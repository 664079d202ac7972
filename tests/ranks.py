"""Functions run by several forked processes with gloo."""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orthostream.training.distributed import World

# The first backward pass of a process starts threads of autograd. Where torch.export ran before it, processes that are
# forked later wait for them for ever.
torch.ones((), requires_grad=True).backward()


def on_ranks(size: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function(world, *arguments)`` returns on each of ``size`` ranks, in order.

    Processes are forked and meet over a file, which takes a fraction of a second.
    """
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    meeting = folder / f"meeting-{size}-{len(list(folder.iterdir()))}"
    processes = [
        context.Process(target=_member, args=(rank, size, meeting, queue, function, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    results = dict(queue.get() for _ in processes)
    for process in processes:
        process.join(60)
    failures = {rank: result[1] for rank, result in results.items() if result[0] == "failed"}
    assert not failures, "\n".join(f"rank {rank}:\n{text}" for rank, text in failures.items())
    return [pickle.loads(results[rank][1]) for rank in range(size)]


def _member(rank, size, meeting, queue, function, arguments):
    try:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=timedelta(seconds=30)
        )
        result = function(World(rank, size, torch.device("cpu")), *arguments)
        # Plain pickle: a queue of tensors would pass handles of a process that is about to end.
        queue.put((rank, ("returned", pickle.dumps(result))))
        dist.barrier()
    except BaseException:
        queue.put((rank, ("failed", traceback.format_exc())))
    # gloo can abort in its teardown after success; the result is what counts.
    os._exit(0)
