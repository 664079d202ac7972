"""Suite ``optimizer``: the step of SGD on the gradients of whole networks, with and without orthogonal gradients.

Sides: plain SGD; ours with its default, with another accuracy and by eigendecomposition; a loop that calls an SVD for
each weight, as the authors' program does; a loop of five Newton-Schulz steps; ``torch.optim.Muon``, whose filters are
given as matrices (its own results stay inside). Gradients are put back before each step, and that time is taken off.
The row of ``forward and backward`` says what share of a training step each of them is: it is timed at a batch that
the device can hold and counted for 128 images. Errors are distances to the polar factors of a first step,
``||U_r^T O - V_r^T|| / sqrt(r)`` over the r directions that the gradient has, the worst of all weights.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Muon

from benchmarks.cases import Case, Failure, Outcome, Setting
from benchmarks.rows import timed_row
from benchmarks.turns import Call, WallClock, in_turn
from orthostream import models, optim

# Seconds of a turn: the first call of a turn finds the caches of another side, for a fast side and for a slow one.
TURN = 0.1
# Images that shares of a training step are counted for.
COUNTED = 128
NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
# Singular values below this share of the norm count as directions that the gradient does not have.
RANK = 1e-3


@dataclass(frozen=True)
class Network:
    """Whose gradients are used.

    Args:
        name: of the model.
        image_size: side of the images in pixels.
        classes: of the head.
        batch: images of a forward and backward pass on the CPU; on a GPU 128.
    """

    name: str
    image_size: int
    classes: int
    batch: int

    @property
    def case(self) -> str:
        return f"{self.name} {self.image_size}x{self.image_size}"

    def build(self, device: torch.device) -> nn.Module:
        torch.manual_seed(0)
        known = models.table.options(self.name)
        sizes = {"image_size": self.image_size, "patch_size": 16} if "patch_size" in known else {}
        return models.create(self.name, num_classes=self.classes, **sizes).to(device).train()


NETWORKS = (
    Network("resnet20", 32, 10, 128),
    Network("resnet50", 224, 1000, 4),
    Network("vit_s", 224, 1000, 8),
    Network("vit_b", 224, 1000, 4),
)


def cases(device: torch.device) -> list[Case]:
    """The networks of the paper and of the residual updates."""
    return [
        Case(f"{network.name} {network.image_size}x{network.image_size}", partial(measure, network))
        for network in NETWORKS
    ]


def measure(network: Network, setting: Setting) -> Iterator[Outcome]:
    """Rows of every side against plain SGD, and of the pass that computes the gradients."""
    device = setting.device
    passes = forward_and_backward(network, device)
    gradients = passes.gradients()
    sides: dict[str, Side] = {}
    for label, make in SIDES.items():
        try:
            model = network.build(device)
            side = Side(model, gradients, make(model))
            side()
            if label != "torch.optim.Muon":
                print(f"  {label}: largest error {largest_error(side.gradients(), gradients):.2g}", flush=True)
            sides[label] = side
        except Exception as error:
            yield Failure(label, error)
    calls: dict[str, Call] = {**sides, "gradients": sides["SGD"].put_back, "passes": passes}
    times = in_turn(calls, WallClock(device, TURN), setting.rounds)
    # Putting gradients back is no part of a step.
    spent = times.pop("gradients")
    times |= {label: [t - s for t, s in zip(times[label], spent, strict=True)] for label in sides}
    times["passes"] = [seconds * COUNTED / passes.batch for seconds in times["passes"]]
    whole = f"forward and backward, {COUNTED} images"
    for label in sides:
        if label != "SGD":
            yield timed_row("optimizer", network.case, "SGD", label, times["SGD"], times[label])
        if label.startswith("orthogonal"):
            for base in (base for base in PEERS if base in sides):
                yield timed_row("optimizer", network.case, base, label, times[base], times[label])
        yield timed_row("optimizer", network.case, whole, label, times["passes"], times[label])


@dataclass
class Passes:
    """Forward and backward, without a step."""

    model: nn.Module
    images: Tensor
    labels: Tensor

    @property
    def batch(self) -> int:
        return len(self.images)

    def __call__(self) -> None:
        self.model.zero_grad()
        functional.cross_entropy(self.model(self.images), self.labels).backward()

    def gradients(self) -> dict[str, Tensor]:
        self()
        return {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}


def forward_and_backward(network: Network, device: torch.device) -> Passes:
    model = network.build(device)
    batch = COUNTED if device.type == "cuda" else network.batch
    images = torch.randn(batch, 3, network.image_size, network.image_size, device=device)
    return Passes(model, images, torch.randint(network.classes, (batch,), device=device))


class Side:
    """A model, its gradients before each step, and the step."""

    def __init__(self, model: nn.Module, gradients: dict[str, Tensor], step: Callable[[], object]) -> None:
        self.step, self.raw = step, list(gradients.values())
        self.named = {name: p for name, p in model.named_parameters() if name in gradients}
        self.buffers = [torch.empty_like(gradient) for gradient in self.raw]

    def put_back(self) -> None:
        """Steps replace gradients: each begins with those of the first."""
        torch._foreach_copy_(self.buffers, self.raw)
        for parameter, buffer in zip(self.named.values(), self.buffers, strict=True):
            parameter.grad = buffer

    def __call__(self) -> None:
        self.put_back()
        self.step()

    def gradients(self) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.named.items() if p.grad is not None}


def sgd(model: nn.Module) -> SGD:
    return SGD(model.parameters(), 1e-4, momentum=0.9, weight_decay=5e-4)


def plain(model: nn.Module) -> Callable[[], object]:
    return sgd(model).step


def wrapped(model: nn.Module, **options: Any) -> Callable[[], object]:
    return optim.orthogonalize(sgd(model), model, **options).step


def loop(model: nn.Module, *, factor: Callable[[Tensor], Tensor]) -> Callable[[], object]:
    """One weight after the other, each gradient rebound to its factor."""
    optimizer = sgd(model)
    chosen = weights_of(model)

    @torch.no_grad()
    def step() -> None:
        for parameter in chosen:
            assert parameter.grad is not None
            parameter.grad = factor(parameter.grad.flatten(1)).view_as(parameter)
        optimizer.step()

    return step


def by_svd(matrix: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def by_newton_schulz(matrix: Tensor) -> Tensor:
    """Five quintic steps in bfloat16, as Muon takes them."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16()
    if x.shape[0] > x.shape[1]:
        x = x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


class MuonAndSGD:
    """``torch.optim.Muon`` on every weight, seen as a matrix, and SGD on the rest."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = weights_of(model)
        self.views = [nn.Parameter(weight.detach().flatten(1)) for weight in self.weights]
        chosen = set(map(id, self.weights))
        rest = [p for p in model.parameters() if id(p) not in chosen]
        self.muon = Muon(self.views, lr=1e-4, weight_decay=0.0)
        self.sgd = SGD(rest, 1e-4, momentum=0.9, weight_decay=5e-4)

    def step(self) -> None:
        for view, weight in zip(self.views, self.weights, strict=True):
            view.grad = weight.grad.flatten(1)
        self.muon.step()
        self.sgd.step()


def muon(model: nn.Module) -> Callable[[], object]:
    return MuonAndSGD(model).step


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    """What our side takes too."""
    taken = {choice.name for choice in optim.Selector().select(model.named_parameters(), model) if choice.is_chosen}
    return [parameter for name, parameter in model.named_parameters() if name in taken]


SIDES: dict[str, Callable[[nn.Module], Callable[[], object]]] = {
    "SGD": plain,
    "orthogonal, default": wrapped,
    "orthogonal, tol 2e-2": partial(wrapped, tol=2e-2),
    "orthogonal, tol 2e-2, bfloat16": partial(wrapped, tol=2e-2, floor=1e-2, precision="bfloat16"),
    "orthogonal, eigh": partial(wrapped, method="eigh"),
    "SVD in a loop": partial(loop, factor=by_svd),
    "Newton-Schulz in a loop": partial(loop, factor=by_newton_schulz),
    "torch.optim.Muon": muon,
}


# What ours is held against besides.
PEERS = ("torch.optim.Muon", "SVD in a loop")


def largest_error(results: dict[str, Tensor], gradients: dict[str, Tensor]) -> float:
    """Over the weights that were replaced; a side that keeps its results to itself has none."""
    errors = [0.0]
    for name, result in results.items():
        if result.ndim < 2 or torch.equal(result, gradients[name]):
            continue
        u, s, vh = torch.linalg.svd(gradients[name].flatten(1).double(), full_matrices=False)
        rank = int((s > RANK * s.norm()).sum())
        difference = u[:, :rank].T @ result.flatten(1).double() - vh[:rank]
        errors.append(float(difference.norm()) / rank**0.5)
    return max(errors)
