"""Suite ``statistics``: a training step that takes statistics of every site against one that does not.

They are taken in 1 of so many steps, and the ratio counts them by that share.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from benchmarks.cases import Case, Outcome, Setting
from benchmarks.training_step import TrainingStep
from benchmarks.whole_steps import measured

# Steps from one recording to the next in the recipes.
INTERVAL = 50


def cases(device: torch.device) -> list[Case]:
    """A ViT and a ResNet at batch sizes that fit the device."""
    on_cuda = device.type == "cuda"
    models = [
        TrainingStep("vit_s", batch=1024 if on_cuda else 64, autocast=on_cuda, connection="orthogonal"),
        TrainingStep("preact_resnet18", batch=1024 if on_cuda else 32, autocast=on_cuda, connection="orthogonal"),
    ]
    return [Case(model.case, partial(measure, model)) for model in models]


def measure(model: TrainingStep, setting: Setting) -> Iterator[Outcome]:
    """One row."""
    steps = measured({"without": model, "with": replace(model, recorded=True)}, setting)
    yield from steps.rows("statistics", model.case, [("without", "with")], share=INTERVAL)
