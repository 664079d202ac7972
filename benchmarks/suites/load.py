"""Suite ``load``: ``from_pretrained`` of our ViT against that of transformers, time and largest resident size.

Both read a full-size ViT-B of random weights that was saved once, and touch every weight, since pages of a file that is
mapped into memory are read no sooner. Files are in the cache of the operating system, so the disk is left out. Loading
is measured twice: again and again in one process, and for the first time in processes of their own, imports included in
time and memory.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.cases import Case, Outcome, Setting, Skip
from benchmarks.loading import OURS, THEIRS, First, class_of, in_own_process, load
from benchmarks.rows import timed_row
from benchmarks.turns import WallClock, in_turn

# Each takes seconds to import what it needs.
MOST_PROCESSES = 7


@dataclass(frozen=True)
class Model:
    """What is saved and loaded.

    Args:
        name: for the table.
        sizes: keys of a ``ViTConfig``.
    """

    name: str
    sizes: dict[str, Any] = field(default_factory=dict)


VIT_B = Model("ViT-B 224x224, 1000 classes, float32", {"num_labels": 1000})


def cases(device: torch.device) -> list[Case]:
    """One: files are loaded to the CPU, whatever the device."""
    if device.type != "cpu":
        raise Skip("models are loaded to the CPU; run it with --device cpu")
    return [Case(VIT_B.name, partial(measure, VIT_B))]


def measure(model: Model, setting: Setting) -> Iterator[Outcome]:
    """A row of loading in one process, and one of processes of their own."""
    with TemporaryDirectory() as place:
        folders = saved(model, Path(place))
        calls = {side: partial(load, side, folder) for side, folder in folders.items()}
        times = in_turn(calls, WallClock(setting.device, turn=0.0), setting.rounds)
        yield timed_row("load", f"{model.name}, again", THEIRS, OURS, times[THEIRS], times[OURS])
        found: dict[str, list[First]] = {side: [] for side in folders}
        for turn in range(min(setting.rounds, MOST_PROCESSES)):
            for side in list(folders) if turn % 2 == 0 else reversed(list(folders)):
                found[side].append(in_own_process(side, folders[side]))
        seconds = {side: [each.seconds for each in rounds] for side, rounds in found.items()}
        peak = {side: statistics.median(each.peak for each in rounds) for side, rounds in found.items()}
        row = timed_row("load", f"{model.name}, first, with imports", THEIRS, OURS, seconds[THEIRS], seconds[OURS])
        yield replace(row, peak_mb_base=peak[THEIRS] / 1e6, peak_mb_other=peak[OURS] / 1e6)


def saved(model: Model, place: Path) -> dict[str, Path]:
    """Folders of both models, of equal sizes; random weights."""
    from transformers import ViTConfig

    from orthostream.hub import OrthoViTConfig

    torch.manual_seed(0)
    configs = {
        THEIRS: ViTConfig(**model.sizes),
        OURS: OrthoViTConfig(residual_connection="orthogonal", elementwise_affine_ln=True, **model.sizes),
    }
    for side, config in configs.items():
        class_of(side)(config).save_pretrained(place / side)
    return {side: place / side for side in configs}
