"""Batches for one process, loaded by workers, the same for any number of workers and processes."""

import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from orthostream.data.epochs import Epochs, Micro
from orthostream.data.errors import DataError
from orthostream.data.images import ImageSet
from orthostream.data.keys import key
from orthostream.data.sampler import EpochBatches, EvalShard
from orthostream.data.transforms import Transform
from orthostream.errors import UsageError

# What a loader does about a training image that cannot be read. Evaluation always stops.
OnBadImage: TypeAlias = Literal["stop", "skip"]
# Of the training images, as many as one may skip.
SKIPPED_SHARE = 0.001

Sample: TypeAlias = tuple[Tensor, int]

# How torch begins its messages about workers.
WORKER_TROUBLE = ("DataLoader worker", "DataLoader timed out")


@dataclass(frozen=True)
class Failure:
    """A sample that could not be loaded. An exception would lose its type and message between processes."""

    message: str
    details: str
    is_unreadable: bool = False


@dataclass(frozen=True)
class Replaced:
    """A sample in the place of others that could not be read, with their failures by index."""

    sample: Sample
    failures: dict[int, str]


class TrainLoader(Epochs):
    """Augmented training samples, in the order that seed and epoch fix.

    The augmentation of a sample runs with torch's generator seeded by a key of (seed, epoch, index), so neither
    the workers nor the processes nor a resumed run changes it; the generator is put back afterwards. A
    transform that draws from anything else than torch's global generator is not covered.

    Images are float32 ``[local batch, channels, height, width]``, labels int64. One epoch is iterated at a time, and
    workers live until :meth:`close`.

    Args:
        dataset: the samples.
        transform: of an image to a tensor.
        seed: of the run.
        batch_size: global: over all processes and micro-batches of a step.
        accumulate: micro-batches a step.
        rank: of this process.
        world_size: number of processes.
        workers: processes that load; 0 loads in this one.
        pin_memory: for faster copies to a CUDA device.
        timeout: seconds to wait for a batch of the workers.
        on_bad_image: ``stop``, or ``skip``: an image that cannot be read is replaced by the next one that can, with the
            augmentation of its own place; it is told on the error stream, and one more than a thousandth of the images
            stops.

    Raises:
        UsageError: where the batch does not divide.
        DataError: where the set is smaller than one batch.
    """

    def __init__(
        self,
        dataset: ImageSet,
        transform: Transform,
        *,
        seed: int,
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        timeout: float = 600,
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        self.skipped: dict[int, str] = {}
        self.batches = EpochBatches(
            len(dataset), seed=seed, batch_size=batch_size, accumulate=accumulate, rank=rank, world_size=world_size
        )
        # One more than may be skipped is enough to know that there are too many.
        tries = 1 + int(SKIPPED_SHARE * len(dataset)) if on_bad_image == "skip" else 0
        self._samples = _AugmentedSamples(dataset, transform, seed, tries)
        self._plan = _EpochPlan(self.batches)
        self._options = _loader_options(workers, pin_memory, timeout)
        self._loader: DataLoader[Any] | None = None
        self._iteration: Any = None

    def close(self) -> None:
        """End the workers. A later epoch starts new ones."""
        _end_workers(self._iteration)
        self._loader = self._iteration = None

    def _steps(self, epoch: int, start_step: int) -> Iterator[tuple[Micro, ...]]:
        if self._loader is None:
            has_workers = self._options["num_workers"] > 0
            self._loader = DataLoader(
                self._samples, batch_sampler=self._plan, persistent_workers=has_workers, **self._options
            )
        self._plan.epoch, self._plan.start_step = epoch, start_step
        self._iteration = iter(self._loader)
        micros = _checked(self._iteration, self._skip)
        try:
            while step := tuple(islice(micros, self.batches.accumulate)):
                yield step
        except DataError:
            self._loader = self._iteration = None
            raise

    def _skip(self, failures: dict[int, str]) -> None:
        """Tell images that were skipped, each once; too many of them are an error."""
        for index, message in failures.items():
            if index not in self.skipped:
                self.skipped[index] = message
                print(f"note: skipped, {len(self.skipped)} so far: {message}", file=sys.stderr, flush=True)
        allowed = int(SKIPPED_SHARE * self.size)
        if len(self.skipped) > allowed:
            raise DataError(
                f"{len(self.skipped)} of {self.size} training images cannot be read, and data.on_bad_image=skip allows "
                f"{allowed}; the last one: {message}. Find them all with: orthostream data check SOURCE"
            )


class EvalLoader:
    """The share of one process in an evaluation, each sample once.

    Args:
        dataset: the samples.
        transform: of an image to a tensor, without chance.
        batch_size: samples of this process at a time; the last batch may be smaller.
        rank: of this process.
        world_size: number of processes.
        workers: processes that load; 0 loads in this one. They live as long as one iteration.
        pin_memory: for faster copies to a CUDA device.
        timeout: seconds to wait for a batch of the workers.

    Raises:
        UsageError: for a batch size below 1.
    """

    def __init__(
        self,
        dataset: ImageSet,
        transform: Transform,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        timeout: float = 600,
    ) -> None:
        # What all processes together must see.
        self.total = len(dataset)
        self._loader: DataLoader[Any] = DataLoader(
            _PlainSamples(dataset, transform),
            batch_sampler=EvalShard(len(dataset), rank, world_size, batch_size),
            **_loader_options(workers, pin_memory, timeout),
        )

    def __iter__(self) -> Iterator[Micro]:
        return _checked(iter(self._loader))

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self._loader)


class _EpochPlan:
    """What the workers load next: the epoch and step are set before each iteration begins."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches, self.epoch, self.start_step = batches, 0, 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.batches.micro_batches(self.epoch, self.start_step)


class _AugmentedSamples(Dataset[Sample | Failure | Replaced]):
    """Samples by (epoch, index), each augmented with a generator of its own."""

    def __init__(self, images: ImageSet, transform: Transform, seed: int, tries: int = 0) -> None:
        self.images, self.transform, self.seed, self.tries = images, transform, seed, tries

    def __getitem__(self, place: tuple[int, int]) -> Sample | Failure | Replaced:
        epoch, index = place
        sample = self._augmented(epoch, index)
        failures: dict[int, str] = {}
        while isinstance(sample, Failure) and sample.is_unreadable and len(failures) < self.tries:
            failures[index] = sample.message
            index = (index + 1) % len(self.images)
            sample = self._augmented(epoch, index)
        return sample if isinstance(sample, Failure) or not failures else Replaced(sample, failures)

    def _augmented(self, epoch: int, index: int) -> Sample | Failure:
        before = torch.get_rng_state()
        # Not torch.manual_seed, which would seed the generators of the GPUs too.
        torch.default_generator.manual_seed(key(self.seed, "augmentation", epoch, index))
        try:
            return _sample(self.images, self.transform, index)
        finally:
            torch.set_rng_state(before)


class _PlainSamples(Dataset[Sample | Failure]):
    """Samples by index."""

    def __init__(self, images: ImageSet, transform: Transform) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, index: int) -> Sample | Failure:
        return _sample(self.images, self.transform, index)


def _sample(images: ImageSet, transform: Transform, index: int) -> Sample | Failure:
    try:
        return transform(images.image(index)), images.label(index)
    except DataError as error:
        return Failure(str(error), traceback.format_exc(), is_unreadable=True)
    # Whatever fails, the person needs to know on which image.
    except Exception as error:
        where = images.where(index)
        return Failure(f"the transform failed on {where}: {type(error).__name__}: {error}", traceback.format_exc())


def _collate(samples: Sequence[Sample | Failure | Replaced]) -> tuple[Tensor, Tensor, dict[int, str]] | Failure:
    """A batch with the failures that were replaced in it, or the first failure that was not."""
    loaded: list[Sample] = []
    failures: dict[int, str] = {}
    for sample in samples:
        if isinstance(sample, Failure):
            return sample
        if isinstance(sample, Replaced):
            failures |= sample.failures
            sample = sample.sample
        loaded.append(sample)
    # In a worker this stacks straight into shared memory.
    return default_collate([image for image, _ in loaded]), torch.tensor([label for _, label in loaded]), failures


def _checked(
    batches: Iterator[tuple[Tensor, Tensor, dict[int, str]] | Failure],
    on_replaced: Callable[[dict[int, str]], None] = lambda failures: None,
) -> Iterator[Micro]:
    """The batches of a loader, with failures raised as errors that say what to do."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith(WORKER_TROUBLE):
                raise
            _end_workers(batches)
            raise DataError(
                f"loading stopped: {error}. A worker that was killed often ran out of memory (signal 9) or of shared "
                "memory (signal 7): lower data.workers; one that hangs often waits for a disk or network"
            ) from error
        if isinstance(batch, Failure):
            _end_workers(batches)
            failure = DataError(batch.message)
            failure.add_note(batch.details)
            raise failure
        images, labels, replaced = batch
        if replaced:
            on_replaced(replaced)
        yield images, labels


def _end_workers(iteration: Any) -> None:
    """End the workers of a loader's iterator, where it has any.

    torch has no public way to do this but to drop the last reference, which an exception's traceback holds;
    and it ends workers by SIGTERM, which ours ignore, so that one which hangs would keep the run from ending.
    """
    workers = getattr(iteration, "_workers", [])
    if workers:
        iteration._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _loader_options(workers: int, pin_memory: bool, timeout: float) -> dict[str, Any]:
    if workers < 0:
        raise UsageError(f"data.workers={workers}; expected 0 (load in this process) or more")
    return {
        "num_workers": workers,
        "collate_fn": _collate,
        "pin_memory": pin_memory,
        "timeout": timeout if workers else 0,
        "worker_init_fn": _begin_worker,
        # A loader draws a seed for its workers whenever it is iterated. From the global generator, that draw
        # would make a resumed run differ from an uninterrupted one.
        "generator": torch.Generator(),
        # Forked workers share the images in memory and start at once; elsewhere forking is not safe.
        "multiprocessing_context": "fork" if workers and sys.platform == "linux" else None,
    }


def _begin_worker(worker: int) -> None:
    """Leave signals to the parent, which saves a checkpoint first; torch has set one thread already.

    Workers notice by themselves when the parent is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
