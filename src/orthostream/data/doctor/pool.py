"""Work spread over forked processes that may die: what killed one of them is found out, and the rest goes on."""

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Broken bytes can send a decoder into a loop; a slow disk must not look like one.
SECONDS = 120.0
INTERVAL = 0.2


@dataclass(frozen=True)
class Died:
    """A process ended, or was ended, while it worked on one thing."""

    reason: str


@dataclass
class _Worker(Generic[T]):
    """A process, the pipe to it, and what it works on."""

    process: BaseProcess
    pipe: Connection
    chunk: Sequence[T] | None = None
    begun: float = 0.0


def spread(
    work: Callable[[T], R],
    chunks: Iterable[Sequence[T]],
    workers: int,
    seconds: float = SECONDS,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[tuple[T, R | Died], None, None]:
    """Call a function on many things in several processes.

    A chunk whose process dies, or takes too long, is tried again one thing at a time, which tells the guilty one. When
    the iteration ends or is left, by an exception too, the processes are killed.

    Args:
        work: of one thing. It may not print or raise; things and results are pickled.
        chunks: of things; taken as processes become free.
        workers: processes; 0 works in this one, without protection.
        seconds: that a chunk may take.
        should_stop: asked several times a second; the iteration ends, with work undone, once it says so.

    Yields:
        Each thing with its result, in the order in which they are ready.

    Example:
        >>> sorted(spread(abs, [[-1], [-2, 3]], workers=0))
        [(-2, 2), (-1, 1), (3, 3)]
    """
    if workers < 1:
        for chunk in chunks:
            for thing in chunk:
                if should_stop():
                    return
                yield thing, work(thing)
        return
    context = multiprocessing.get_context("fork")
    running: list[_Worker[T]] = []

    def begin() -> _Worker[T]:
        ours, theirs = context.Pipe()
        # A copy of a pipe that another child holds would hide from it that this process is gone.
        inherited = [ours, *(worker.pipe for worker in running)]
        process = context.Process(target=_serve, args=(work, theirs, inherited), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    waiting: Iterator[Sequence[T]] = iter(chunks)
    again: deque[Sequence[T]] = deque()
    try:
        for _ in range(workers):
            running.append(begin())
        while not should_stop():
            for worker in running:
                if worker.chunk is None and (chunk := again.popleft() if again else next(waiting, ())):
                    worker.chunk, worker.begun = chunk, time.monotonic()
                    _send(worker)
            busy = [worker for worker in running if worker.chunk is not None]
            if not busy:
                return
            wait([worker.pipe for worker in busy], timeout=INTERVAL)
            for place, worker in enumerate(running):
                if worker.chunk is None:
                    continue
                chunk = worker.chunk
                answer: list[R] | Died | None = _answer(worker, seconds)
                if answer is None:
                    continue
                worker.chunk = None
                if not isinstance(answer, Died):
                    yield from zip(chunk, answer, strict=True)
                    continue
                running[place] = _renewed(worker, running, place, begin)
                if len(chunk) == 1:
                    yield chunk[0], answer
                else:
                    again.extend([thing] for thing in chunk)
    finally:
        for worker in running:
            worker.process.kill()
        for worker in running:
            worker.process.join()
            worker.pipe.close()


def _serve(work: Callable[[T], R], pipe: Connection, inherited: Sequence[Connection]) -> None:
    """What a process does: chunk after chunk, until the parent is gone."""
    # Ctrl-C reaches all processes of a terminal; the parent ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    while True:
        try:
            chunk: Sequence[T] = pipe.recv()
            pipe.send([work(thing) for thing in chunk])
        except (EOFError, OSError):
            return


def _renewed(worker: _Worker[T], running: list[_Worker[T]], place: int, begin: Callable[[], _Worker[T]]) -> _Worker[T]:
    """Another process in the place of one that is gone."""
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()
    # The new one must not be handed the closed pipe.
    del running[place]
    fresh = begin()
    running.insert(place, fresh)
    return fresh


def _send(worker: _Worker[T]) -> None:
    # A process that died just now is noticed when its answer is asked for.
    try:
        worker.pipe.send(worker.chunk)
    except OSError:
        return


def _answer(worker: _Worker[T], seconds: float) -> "list[R] | Died | None":
    """Results of a chunk, or that there will be none; None where they are still to come."""
    try:
        if worker.pipe.poll():
            results: list[R] = worker.pipe.recv()
            return results
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode or 0
        return Died(f"killed by signal {-code}" if code < 0 else f"ended with code {code}")
    if time.monotonic() - worker.begun > seconds:
        return Died(f"no end after {seconds:g} s")
    return None
