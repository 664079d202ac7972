"""The orthogonal update in float64, written anew from its definition: what every other form is measured against."""

from typing import Any

import torch
from torch import Tensor

from orthostream.ops import forced, orthogonal_update

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# (dtype of the stream, dtype of the update): alike, and mixed in both orders.
PAIRS = [(dtype, dtype) for dtype in DTYPES] + [
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float64, torch.float32),
    (torch.float32, torch.float64),
    (torch.float16, torch.bfloat16),
]
# (shape, axes of the inner products): tokens and maps, feature and global, negative and mixed.
AXES = [
    ((2, 5, 7), -1),
    ((2, 6, 4, 3), 1),
    ((2, 5, 7), (1, 2)),
    ((2, 6, 4, 3), (1, 2, 3)),
    ((2, 5, 7), (-1, 1)),
    ((2, 6, 4, 3), (-2, 1, -1)),
    ((7,), 0),
]


def random_pair(
    shape: tuple[int, ...], pair: tuple[torch.dtype, torch.dtype] = (torch.float64,) * 2, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """A stream and an update of a shape; the update has a share of the stream, as real ones do."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    return x.to(pair[0]), (0.4 * x + noise).to(pair[1])


def exact_update(
    x: Tensor, update: Tensor, dim: int | tuple[int, ...], eps: float = 1e-6, strength: float = 1
) -> Tensor:
    x, update = x.double(), update.double()
    share = (x * update).sum(dim, keepdim=True) / ((x * x).sum(dim, keepdim=True) + eps)
    return x + update - strength * share * x


def exact_gradients(
    x: Tensor, update: Tensor, gradient: Tensor, dim: int | tuple[int, ...], eps: float = 1e-6, strength: float = 1
) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().double().requires_grad_() for tensor in (x, update)]
    return torch.autograd.grad(exact_update(*leaves, dim, eps, strength), leaves, gradient.double())


def reference_update(*arguments: Any, **options: Any) -> Tensor:
    """The plain formula of the library, differentiated by autograd."""
    with forced("reference"):
        return orthogonal_update(*arguments, **options)


def assert_rounded(actual: Tensor, exact: Tensor, slack: float = 1e-6) -> None:
    """``actual`` is ``exact`` rounded once to its dtype, beyond the rounding of float32 arithmetic (``slack``)."""
    half_step = torch.finfo(actual.dtype).eps / 2
    absolute = slack if actual.dtype != torch.float64 else 1e-13
    torch.testing.assert_close(actual.double(), exact, rtol=half_step, atol=absolute)
