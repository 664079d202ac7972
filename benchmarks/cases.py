"""What is measured: each case is a pair of training steps that differ in one thing."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from orthostream import models
from orthostream.analysis import Recording
from orthostream.training.settings import Micro
from orthostream.training.step import Stepper

CLASSES = 10
STATISTICS_INTERVAL = 50


@dataclass(frozen=True)
class Case:
    """Two sides and what is done with them.

    Args:
        name: for the table.
        sides: label of each side and what makes its step; the first one is the base of the ratio.
        batch: images a step.
        share: how often the second side's extra work happens, as 1 in so many steps.
    """

    name: str
    sides: dict[str, Callable[[torch.device], Callable[[], None]]]
    batch: int
    share: int = 1


def training_step(
    model: str, connection: str, batch: int, *, compiled: bool, recorded: bool = False
) -> Callable[[torch.device], Callable[[], None]]:
    """A whole optimizer step on images of CIFAR's shape, with the recipe's optimizer."""

    def build(device: torch.device) -> Callable[[], None]:
        torch.manual_seed(0)
        made = models.create(model, num_classes=CLASSES, connection=connection).to(device)
        amp = torch.bfloat16 if device.type == "cuda" else None
        if made.family == "resnet":
            made.to(memory_format=torch.channels_last)
            optimizer: torch.optim.Optimizer = torch.optim.SGD(
                made.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4, fused=True
            )
        else:
            optimizer = torch.optim.Adam(made.parameters(), 1e-4, weight_decay=1e-4, fused=True)
        recording = Recording(made) if recorded else None
        called = torch.compile(made) if compiled else made
        stepper = Stepper(
            called,
            optimizer,
            nn.CrossEntropyLoss(),
            mix=None,
            device=device,
            accumulate=1,
            clip_norm=None,
            autocast_dtype=amp,
        )
        images = torch.randn(batch, 3, 32, 32, device=device)
        if made.family == "resnet":
            images = images.contiguous(memory_format=torch.channels_last)
        micros: tuple[Micro, ...] = ((images, torch.randint(CLASSES, (batch,), device=device)),)
        made.train()

        def step() -> None:
            stepper.gradient(micros, 0, 0, recording.start if recording else lambda: None)
            if recording is not None:
                recording.stop()
                recording.collect()
            stepper.update(1e-4)

        return step

    return build


def connection_cases(batch: dict[str, int], compiled: bool) -> list[Case]:
    """Orthogonal against linear, whose write is one addition."""
    way = "compiled" if compiled else "eager"
    return [
        Case(
            f"{model}, batch {size}, {way}",
            {kind: training_step(model, kind, size, compiled=compiled) for kind in ("linear", "orthogonal")},
            size,
        )
        for model, size in batch.items()
    ]


def statistics_cases(batch: dict[str, int]) -> list[Case]:
    """A step with statistics of every site against one without."""
    return [
        Case(
            f"{model}, batch {size}, eager",
            {
                "without": training_step(model, "orthogonal", size, compiled=False),
                "with": training_step(model, "orthogonal", size, compiled=False, recorded=True),
            },
            size,
            share=STATISTICS_INTERVAL,
        )
        for model, size in batch.items()
    ]


def suites(device: torch.device) -> dict[str, list[Case]]:
    """All cases by name, at batch sizes that fit the device."""
    on_cuda = device.type == "cuda"
    batch = {"vit_s": 1024 if on_cuda else 64, "preact_resnet18": 1024 if on_cuda else 32}
    return {
        "step": connection_cases(batch, compiled=False) + connection_cases(batch, compiled=True),
        "statistics": statistics_cases(batch),
    }
