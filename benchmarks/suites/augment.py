"""Suite ``augment``: training batches from whole-batch augmentation against those from two worker processes.

A turn is an epoch of random images, from the first batch to the last, so that no worker is ahead at its begin or goes
on after its end. Workers live from turn to turn. Times are of an epoch, and the number of its images is in the name.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks.cases import Case, Outcome, Setting
from benchmarks.rows import timed_row
from benchmarks.turns import WallClock, in_turn, synchronise
from orthostream.data.batched import BatchedTrainLoader
from orthostream.data.description import Description
from orthostream.data.images import ImageTensorSet
from orthostream.data.loader import TrainLoader
from orthostream.data.transforms import Pipeline, train_transform

WORKERS = 2
# Of the recipes.
VIT: dict[str, Any] = {"randaugment_n": 9, "randaugment_m": 5, "random_erase": 0.25}


@dataclass(frozen=True)
class Augmentation:
    """What is loaded, and how it is changed.

    Args:
        family: of the images.
        side: pixels.
        pipeline: whose transforms.
        count: images an epoch.
        batch: images a step.
        options: of the transform.
    """

    family: Any
    side: int
    pipeline: Pipeline
    count: int = 4096
    batch: int = 1024
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For the table."""
        options = "".join(f" {name}={value}" for name, value in self.options.items())
        return f"{self.family} {self.pipeline}{options}, {self.count} images of {self.side}x{self.side}"


AUGMENTATIONS = (
    Augmentation("cifar", 32, "vit", options=VIT),
    Augmentation("cifar", 32, "resnet"),
    Augmentation("tiny_imagenet", 64, "vit", count=2048, batch=512, options=VIT),
)


def cases(device: torch.device) -> list[Case]:
    """The recipes' augmentations of small images; workers are on the CPU everywhere."""
    return [Case(each.name, partial(measure, each)) for each in AUGMENTATIONS]


def measure(augmentation: Augmentation, setting: Setting) -> Iterator[Outcome]:
    """One row."""
    images = random_images(augmentation)
    transform = train_transform(described(augmentation), augmentation.pipeline, **augmentation.options)
    options: dict[str, Any] = {"seed": 0, "batch_size": augmentation.batch}
    workers = f"{WORKERS} workers"
    with (
        closing(TrainLoader(images, transform, workers=WORKERS, **options)) as first,
        closing(BatchedTrainLoader(images, transform, device=setting.device, **options)) as second,
    ):
        calls = {workers: epochs(first, setting.device), "batched": epochs(second, setting.device)}
        times = in_turn(calls, WallClock(setting.device, turn=0.0), setting.rounds)
    yield timed_row("augment", augmentation.name, workers, "batched", times[workers], times["batched"])


def epochs(loader: TrainLoader | BatchedTrainLoader, device: torch.device) -> Callable[[], None]:
    """A function that loads another epoch at each call, until all of it is on the device."""
    done = 0

    def load() -> None:
        nonlocal done
        for micros in loader.epoch(done):
            for images, labels in micros:
                images.to(device)
                labels.to(device)
        synchronise(device)
        done += 1

    return load


def random_images(augmentation: Augmentation) -> ImageTensorSet:
    """Noise: no operation takes longer on one image than on another."""
    shape = (augmentation.count, 3, augmentation.side, augmentation.side)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageTensorSet(pixels, torch.zeros(augmentation.count, dtype=torch.int64), 2, "noise")


def described(augmentation: Augmentation) -> Description:
    """What the transforms need to know."""
    return Description(
        name=augmentation.family,
        family=augmentation.family,
        classes=("one", "other"),
        channels=3,
        image_size=augmentation.side,
        patch_size=4,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        eval_split="test",
    )
