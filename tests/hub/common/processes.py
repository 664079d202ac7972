"""How the common tests start several processes, with the names under which they ask for it."""

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ranks import on_ranks

PATIENCE_S = 240


def run_distributed(world_size: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A function of (rank, arguments) becomes one of the arguments alone, which runs it on every rank, with gloo."""

    def decorated(function: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            with tempfile.TemporaryDirectory() as folder:
                on_ranks(world_size, Path(folder), lambda world: function(world.rank, *arguments))

        return run

    return decorated


def start_rank_processes(function: Callable[..., None], args: tuple[Any, ...], nprocs: int) -> None:
    """Run ``function(rank, *args)`` in forked processes; it makes the group itself and keeps its own errors."""
    # The processes compute on one thread: a pool of threads does not survive a fork.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_member, args=(function, rank, args)) for rank in range(nprocs)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
    assert not late, f"{len(late)} of {nprocs} processes did not end within {PATIENCE_S} s"


def _member(function: Callable[..., None], rank: int, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    function(rank, *args)


NAMES: dict[str, Any] = {
    "run_distributed": run_distributed,
    "_start_rank_processes": start_rank_processes,
    "_get_distributed_backend": lambda: "gloo",
    "_get_distributed_device_type": lambda: "cpu",
    "_get_rank_device": lambda rank: torch.device("cpu"),
    "_set_rank_device": lambda rank: None,
}
