"""Batches from images in memory, augmented whole; in the place of ``TrainLoader`` and ``EvalLoader``."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from orthostream.data.batched.draws import Draws
from orthostream.data.batched.pipeline import batched
from orthostream.data.batched.store import labels_of, stored
from orthostream.data.batched.threads import Threads
from orthostream.data.epochs import Epochs, Micro
from orthostream.data.images import ImageSet
from orthostream.data.sampler import EpochBatches, EvalShard
from orthostream.data.transforms import Transform

# Small batches are augmented several at a time, for each call of torch costs microseconds: up to so many images, and
# so many bytes of float32, for memory beyond that is fresh at each call.
AHEAD = 2048
BYTES_AHEAD = 24 << 20


class BatchedTrainLoader(Epochs):
    """Augmented training samples, in the order that seed and epoch fix.

    Order, batches and shares of the processes are those of :class:`orthostream.data.loader.TrainLoader`; the
    augmentation has the same distribution with other draws. It depends on (seed, epoch, sample) alone: neither the
    processes nor the micro-batches nor a resumed run change it. No generator is touched. Images, float32
    ``[local batch, channels, height, width]``, and int64 labels come on the device.

    Args:
        dataset: the samples, decoded here once.
        transform: of single images, as ``TrainLoader`` takes it.
        seed: of the run.
        batch_size: global: over all processes and micro-batches of a step.
        accumulate: micro-batches a step.
        rank: of this process.
        world_size: number of processes.
        device: where images are kept and augmented.

    Raises:
        UsageError: where the batch does not divide, or the transform has a step without batched form.
        DataError: where the set is smaller than one batch, or its images are not of one size.

    Example:
        >>> from orthostream import data
        >>> from orthostream.data.transforms import train_transform
        >>> splits = data.load("digits")
        >>> transform = train_transform(splits.description, "vit", randaugment_n=2, randaugment_m=9)
        >>> loader = BatchedTrainLoader(splits.train, transform, seed=0, batch_size=128)
        >>> (images, labels), = next(loader.epoch(0))
        >>> images.shape, labels.shape
        (torch.Size([128, 1, 8, 8]), torch.Size([128]))
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
        device: torch.device | str = "cpu",
    ) -> None:
        self.batches = EpochBatches(
            len(dataset), seed=seed, batch_size=batch_size, accumulate=accumulate, rank=rank, world_size=world_size
        )
        self.transform = batched(transform)
        self.seed, self.device = seed, torch.device(device)
        self.images = stored(dataset, self.transform.before).to(self.device)
        self.labels = labels_of(dataset).to(self.device)
        self._threads = Threads()

    def close(self) -> None:
        """End the threads. A later epoch starts new ones."""
        self._threads.close()

    def augmented(self, epoch: int, samples: Tensor) -> Tensor:
        """Samples as an epoch sees them.

        Args:
            epoch: from 0.
            samples: int64 ``[batch]``, places in the set, on the CPU.

        Returns:
            float32 ``[batch, channels, height, width]`` on the device.
        """

        def compute(part: Tensor) -> Tensor:
            chosen = self.images.index_select(0, part.to(self.device, non_blocking=True))
            return self.transform(chosen, Draws.of(self.seed, epoch, part))

        # A device has threads of its own.
        return self._threads.map(compute, samples) if self.device.type == "cpu" else compute(samples)

    def _steps(self, epoch: int, start_step: int) -> Iterator[tuple[Micro, ...]]:
        micros = self._micros(epoch, start_step)
        while step := tuple(islice(micros, self.batches.accumulate)):
            yield step

    def _micros(self, epoch: int, start_step: int) -> Iterator[Micro]:
        places = self.batches.micro_batches(epoch, start_step)
        share = self.batches.batch_size // (self.batches.world_size * self.batches.accumulate)
        image_bytes = 4 * self.images[0].numel()
        ahead = max(1, min(AHEAD, BYTES_AHEAD // image_bytes) // share)
        while taken := list(islice(places, ahead)):
            samples = torch.tensor([index for micro in taken for _, index in micro])
            images = self.augmented(epoch, samples)
            labels = self.labels.index_select(0, samples.to(self.device, non_blocking=True))
            yield from zip(torch.split(images, share), torch.split(labels, share), strict=True)


class BatchedEvalLoader:
    """The share of one process in an evaluation, each sample once, from images in memory.

    Args:
        dataset: the samples, decoded here once.
        transform: of an image to a tensor, without chance.
        batch_size: samples of this process at a time; the last batch may be smaller.
        rank: of this process.
        world_size: number of processes.
        device: where images are kept.

    Raises:
        UsageError: for a batch size below 1, or a step of the transform without batched form.
        DataError: where the images are not of one size.
    """

    def __init__(
        self,
        dataset: ImageSet,
        transform: Transform,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        # What all processes together must see.
        self.total = len(dataset)
        self.transform, self.device = batched(transform), torch.device(device)
        self._shard = EvalShard(len(dataset), rank, world_size, batch_size)
        self.images = stored(dataset, self.transform.before).to(self.device)
        self.labels = labels_of(dataset).to(self.device)

    def __iter__(self) -> Iterator[Micro]:
        for indices in self._shard:
            samples = torch.tensor(indices)
            places = samples.to(self.device, non_blocking=True)
            # The steps of an evaluation draw nothing; all of them ask for the place of their numbers.
            images = self.transform(self.images.index_select(0, places), Draws.of(0, 0, samples))
            yield images, self.labels.index_select(0, places)

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self._shard)
