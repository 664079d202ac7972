"""Suite ``step``: a training step with orthogonal connections against one with plain additions.

One case a model; all implementations, eager and compiled, take turns in it. Each is held against plain additions run
the same way, and besides the fastest of one kind against the fastest of the other: that is the overhead which
``overhead.py`` sets beside the published one.
"""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from benchmarks.cases import Case, Outcome, Setting, implementations
from benchmarks.training_step import TrainingStep
from benchmarks.whole_steps import Steps, measured

THOUSAND_CLASSES = {"num_classes": 1000}
TWO_HUNDRED_CLASSES = {"num_classes": 200}


def cases(device: torch.device) -> list[Case]:
    """At batch sizes that fit the device."""
    if device.type != "cuda":
        models = [TrainingStep("vit_s", batch=64), TrainingStep("preact_resnet18", batch=32)]
        return [Case(model.case, partial(measure, model, ("eager", "compiled"))) for model in models]
    vit = TrainingStep("", {**THOUSAND_CLASSES, "image_size": 224, "patch_size": 16}, 224, 256, autocast=True)
    # The stem of these ResNets does not pool: they are made for images of 32x32 and 64x64.
    resnet = TrainingStep("", TWO_HUNDRED_CLASSES, 64, 256, autocast=True)
    models = [replace(vit, model=name) for name in ("vit_s", "vit_b")]
    models += [replace(resnet, model=name) for name in ("preact_resnet34", "preact_resnet50")]
    small = [replace(model, image_size=32, batch=1024) for model in models[2:]]
    # Compiling takes most of the time of this suite: smaller images do without.
    return [Case(model.case, partial(measure, model, ("eager", "compiled"))) for model in models] + [
        Case(model.case, partial(measure, model, ("eager",))) for model in small
    ]


def measure(model: TrainingStep, ways: tuple[str, ...], setting: Setting) -> Iterator[Outcome]:
    """Rows of each implementation against plain additions, and of the fastest against the fastest."""
    plain: dict[str, TrainingStep] = {}
    orthogonal: dict[str, TrainingStep] = {}
    for way in ways:
        is_compiled = way == "compiled"
        if is_compiled and not setting.compiles:
            continue
        side = replace(model, compiled=is_compiled)
        plain[side.label] = side
        for name in implementations(setting.device, compiled=is_compiled):
            side = replace(model, compiled=is_compiled, connection="orthogonal", implementation=name)
            orthogonal[side.label] = side
    steps = measured({**plain, **orthogonal}, setting)
    pairs = [
        (base, other)
        for base, one in plain.items()
        for other, another in orthogonal.items()
        if one.compiled == another.compiled
    ]
    fastest = (quickest(steps, plain), quickest(steps, orthogonal))
    yield from steps.rows("step", model.case, pairs if fastest in pairs else [*pairs, fastest])


def quickest(steps: Steps, sides: dict[str, TrainingStep]) -> str:
    """The label with the smallest median; empty where no side ran."""
    ran = [label for label in sides if label in steps.times]
    return min(ran, key=lambda label: statistics.median(steps.times[label]), default="")
