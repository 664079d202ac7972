"""All suites by name: for each device, the cases that it measures."""

from collections.abc import Callable

import torch

from benchmarks.cases import Case
from benchmarks.suites import augment, load, memory, ops, optimizer, pair, polar, sharing, statistics, step

SUITES: dict[str, Callable[[torch.device], list[Case]]] = {
    "augment": augment.cases,
    "load": load.cases,
    "memory": memory.cases,
    "ops": ops.cases,
    "optimizer": optimizer.cases,
    "pair": pair.cases,
    "polar": polar.cases,
    "sharing": sharing.cases,
    "step": step.cases,
    "statistics": statistics.cases,
}
