"""One optimizer step of a model, as training runs it: what the suites of whole steps time."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from orthostream import models, ops
from orthostream.analysis import Recording
from orthostream.ops.choice import Name
from orthostream.training.settings import Micro
from orthostream.training.step import Stepper


@dataclass(frozen=True)
class TrainingStep:
    """All that makes a step; plain values, so that another process can be told.

    Args:
        model: name of the model.
        options: of the model, its number of classes included.
        image_size: side of the images in pixels.
        batch: images a step.
        autocast: whether the forward pass runs under autocast to bfloat16.
        connection: at all sites.
        implementation: of the operations; None for the one that is chosen freely.
        compiled: whether the model is compiled.
        recorded: whether statistics of all sites are taken in each step.
    """

    model: str
    options: dict[str, int] = field(default_factory=lambda: {"num_classes": 10})
    image_size: int = 32
    batch: int = 64
    autocast: bool = False
    connection: str = "linear"
    implementation: Name | None = None
    compiled: bool = False
    recorded: bool = False

    @property
    def label(self) -> str:
        """What distinguishes sides of one case."""
        rule = f"{self.connection} ({self.implementation})" if self.implementation else self.connection
        return f"{rule}, {'compiled' if self.compiled else 'eager'}"

    @property
    def case(self) -> str:
        """What sides of one case have in common."""
        precision = "bfloat16 autocast" if self.autocast else "float32"
        return f"{self.model} {self.image_size}x{self.image_size}, batch {self.batch}, {precision}"

    def build(self, device: torch.device) -> Callable[[], None]:
        """The step, to be called again and again."""
        torch.manual_seed(0)
        made = models.create(self.model, connection=self.connection, **self.options).to(device)
        optimizer = self._optimizer(made)
        recording = Recording(made) if self.recorded else None
        stepper = Stepper(
            torch.compile(made, dynamic=False) if self.compiled else made,
            optimizer,
            nn.CrossEntropyLoss(),
            mix=None,
            device=device,
            accumulate=1,
            clip_norm=None,
            autocast_dtype=torch.bfloat16 if self.autocast else None,
        )
        images = torch.randn(self.batch, 3, self.image_size, self.image_size, device=device)
        if made.family == "resnet":
            images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(self.options["num_classes"], (self.batch,), device=device)
        micros: tuple[Micro, ...] = ((images, labels),)
        made.train()

        def step() -> None:
            with self._implementation():
                stepper.gradient(micros, 0, 0, recording.start if recording else lambda: None)
                if recording is not None:
                    recording.stop()
                    recording.collect()
                stepper.update(1e-4)

        return step

    def _implementation(self) -> AbstractContextManager[None]:
        # A compiled model looks at the choice in every call, and would be compiled again under another one.
        return ops.forced(self.implementation) if self.implementation else nullcontext()

    def _optimizer(self, made: models.Model) -> torch.optim.Optimizer:
        """The recipe's."""
        if made.family == "resnet":
            made.to(memory_format=torch.channels_last)
            return torch.optim.SGD(made.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4, fused=True)
        return torch.optim.Adam(made.parameters(), 1e-4, weight_decay=1e-4, fused=True)
