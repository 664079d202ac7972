"""Suite ``polar``: a table of how near each method comes to the polar factor.

The distance is ``||U_r^T O - V_r^T||_F / sqrt(r)`` for a result O, from ``U S V^T`` in float64 and its rank r. Times of
whole optimizer steps are the suite ``optimizer``.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case, Outcome, Setting
from orthostream.optim.polar import Polar

# What stands in the table of distances.
METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "tol=1e-5": {"tol": 1e-5},
    "svd": {"method": "svd"},
    "eigh": {"method": "eigh"},
    "polar_express": {"method": "polar_express"},
    **{f"polar_express, {k} steps": {"method": "polar_express", "steps": k} for k in (5, 6, 8, 10)},
    "newton_schulz, 20 steps": {"method": "newton_schulz", "steps": 20},
    "newton_schulz, 30 steps": {"method": "newton_schulz", "steps": 30},
    "quintic, 10 steps": {"method": "quintic", "steps": 10},
    **{name: {"method": name} for name in ("muon", "muon_refined", "you", "cans", "cubic5")},
    "bfloat16, default": {"precision": "bfloat16"},
    "bfloat16, tol=2e-2, floor=1e-2": {"precision": "bfloat16", "tol": 2e-2, "floor": 1e-2},
    "bfloat16, muon": {"precision": "bfloat16", "method": "muon"},
    "bfloat16, you": {"precision": "bfloat16", "method": "you"},
}


def cases(device: torch.device) -> list[Case]:
    """The table."""
    return [Case("distances", distances)]


def gaussian(rows: int, columns: int, seed: int) -> Tensor:
    """Independent entries."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decaying(rows: int, columns: int, seed: int) -> Tensor:
    """Singular values 1, 1/2, 1/3, ..., which gradients of trained networks resemble more."""
    return with_values(rows, columns, 1 / torch.arange(1, min(rows, columns) + 1, dtype=torch.float64), seed)


def conditioned(rows: int, columns: int, condition: float, seed: int) -> Tensor:
    """Log-uniform singular values from 1 down to 1 / condition."""
    return with_values(rows, columns, torch.logspace(0, -math.log10(condition), min(rows, columns)).double(), seed)


def with_values(rows: int, columns: int, values: Tensor, seed: int) -> Tensor:
    left, right = (torch.linalg.qr(gaussian(side, len(values), seed + i))[0] for i, side in enumerate((rows, columns)))
    return (left * values) @ right.T


def distances(setting: Setting) -> Iterator[Outcome]:
    """Prints a Markdown table; there is nothing to time."""
    matrices = {
        "64x576 Gaussian": gaussian(64, 576, 0),
        "64x576, 1/k": decaying(64, 576, 1),
        "256x256 Gaussian": gaussian(256, 256, 2),
        "384x1536 Gaussian": gaussian(384, 1536, 3),
        **{f"128x256, cond. 1e{power}": conditioned(128, 256, 10.0**power, 4) for power in (2, 3, 4, 6)},
    }
    on_device = {name: matrix.float().to(setting.device) for name, matrix in matrices.items()}
    factors = {name: factor(matrix) for name, matrix in on_device.items()}
    print(f"| method | {' | '.join(matrices)} |\n| --- |{' ---: |' * len(matrices)}")
    for label, options in METHODS.items():
        polar = Polar(**options)
        found = (distance(polar(matrix), *factors[name]) for name, matrix in on_device.items())
        print(f"| {label} | {' | '.join(f'{value:.0e}' for value in found)} |", flush=True)
    yield from ()


def factor(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """``U_r^T`` and ``V_r^T`` in float64."""
    u, values, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    rank = int((values > 2e-7 * values[0]).sum())
    return u[:, :rank].mT, vh[:rank]


def distance(result: Tensor, u: Tensor, vh: Tensor) -> float:
    """See the head of this file."""
    return float((u @ result.double() - vh).norm()) / math.sqrt(len(vh))
