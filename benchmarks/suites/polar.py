"""Suite ``polar``: steps of optimizers with orthogonal gradients, and a table of how near methods come to the factor.

Steps are those of SGD with momentum, plain, behind ``optim.orthogonalize``, and behind a loop of decompositions as in
the official code of the paper, and of ``torch.optim.Muon``. Gradients are put back before each step; the time of that
is measured as a side of its own and taken off all others, turn by turn.

The distance is ``||U_r^T O - V_r^T||_F / sqrt(r)`` for a result O, from ``U S V^T`` in float64 and its rank r.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Muon

from benchmarks.cases import Case, Outcome, Setting
from benchmarks.rows import timed_row
from benchmarks.turns import Call, WallClock, in_turn
from orthostream import optim
from orthostream.optim.polar import Polar

SGDM = "SGD with momentum"
MUON = "torch.optim.Muon"
# Matrices of a ResNet-20 for 32 x 32 images, and of a ViT-S/16 for 224 x 224 ones.
NETWORKS: dict[str, list[tuple[int, int]]] = {
    "ResNet-20": [(16, 27), *[(16, 144)] * 6, (32, 144), *[(32, 288)] * 5, (64, 288), *[(64, 576)] * 5, (10, 64)],
    "ViT-S": [
        *[(1152, 384), (384, 384), (1536, 384), (384, 1536)] * 12,
        *[(384, 768), (1000, 384), (1, 384), (1, 75648)],
    ],
}
# What is measured in optimizer steps, by network.
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "ResNet-20": {"default": {}, "polar_express": {"method": "polar_express"}},
    "ViT-S": {
        "default": {},
        "tol 2e-2": {"tol": 2e-2},
        "tol 2e-2, bfloat16": {"tol": 2e-2, "floor": 1e-2, "precision": "bfloat16"},
    },
}
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
    """The table, then steps of both networks, with gradients of even and of decaying singular values."""
    spectra: dict[str, Callable[..., Tensor]] = {"Gaussian": gaussian, "singular values 1/k": decaying}
    return [
        Case("distances", distances),
        *(
            Case(f"step, {network}, {spectrum}", partial(steps, network, spectrum, make))
            for network in NETWORKS
            for spectrum, make in spectra.items()
        ),
    ]


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


def steps(network: str, spectrum: str, make: Callable[..., Tensor], setting: Setting) -> Iterator[Outcome]:
    """Rows of orthogonal steps against plain ones, the official loop and Muon."""
    shapes = NETWORKS[network]
    gradients = [make(*shape, seed).float().to(setting.device) for seed, shape in enumerate(shapes)]
    sides: dict[str, Callable[[list[nn.Parameter]], Call]] = {
        SGDM: lambda parameters: sgd(parameters).step,
        MUON: lambda parameters: Muon(parameters, lr=1e-3).step,
        "loop of SVDs": lambda parameters: partial(official, parameters, sgd(parameters)),
        **{
            label: lambda parameters, options=options: (
                optim.orthogonalize(sgd(parameters), which="paper", **options).step
            )
            for label, options in OPTIONS[network].items()
        },
    }
    calls: dict[str, Call] = {"gradients": partial(put_back, fresh(gradients), gradients)}
    for label, side in sides.items():
        parameters = fresh(gradients)
        calls[label] = partial(in_order, [partial(put_back, parameters, gradients), side(parameters)])
    # The host's own work is part of an optimizer step.
    times = in_turn(calls, WallClock(setting.device), setting.rounds)
    alone = times.pop("gradients")
    times = {label: [t - a for t, a in zip(of_side, alone, strict=True)] for label, of_side in times.items()}
    name = f"step, {network}, {spectrum}"
    for label in times:
        if label != SGDM:
            yield timed_row("polar", name, SGDM, label, times[SGDM], times[label])
    for label in OPTIONS[network]:
        for base in (MUON, "loop of SVDs"):
            yield timed_row("polar", name, base, label, times[base], times[label])


def sgd(parameters: Sequence[nn.Parameter]) -> SGD:
    return SGD(parameters, lr=1e-3, momentum=0.9)


def official(parameters: Sequence[nn.Parameter], optimizer: SGD) -> None:
    """As the official code does, one matrix after the other."""
    for parameter in parameters:
        u, _, vh = torch.linalg.svd(parameter.grad, full_matrices=False)
        parameter.grad = u @ vh
    optimizer.step()


def fresh(gradients: Sequence[Tensor]) -> list[nn.Parameter]:
    """Parameters with gradients of their own."""
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return parameters


def put_back(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    torch._foreach_copy_([parameter.grad for parameter in parameters if parameter.grad is not None], list(gradients))


def in_order(calls: Sequence[Call]) -> None:
    for call in calls:
        call()
