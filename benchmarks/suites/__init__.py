"""All suites by name: for each device, the cases that it measures."""

from collections.abc import Callable

import torch

from benchmarks.cases import Case
from benchmarks.suites import load, memory, ops, pair, statistics, step

SUITES: dict[str, Callable[[torch.device], list[Case]]] = {
    "load": load.cases,
    "memory": memory.cases,
    "ops": ops.cases,
    "pair": pair.cases,
    "step": step.cases,
    "statistics": statistics.cases,
}
