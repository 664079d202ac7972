"""Matrix products for iterations: in the precision that was asked for, and by the faster of two libraries on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

# Smaller side of products from which oneDNN is faster than the BLAS that torch calls for float32 on a CPU, nearly
# twice as fast on processors whose widest instructions that BLAS leaves alone.
LARGE = 160


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Products of float32 matrices in float32 inside the block, whatever TF32, bfloat16 or autocast the process allows.

    The setting belongs to the process, as torch's own does.
    """
    settings, allowed = _allowed(device)
    is_cast = torch.is_autocast_enabled(device.type)
    with torch.autocast(device.type, enabled=False) if is_cast else nullcontext():
        if allowed in ("ieee", "none"):
            yield
            return
        settings.fp32_precision = "ieee"
        try:
            yield
        finally:
            settings.fp32_precision = allowed


def is_full_float32(device: torch.device) -> bool:
    """Whether :func:`full_float32` would change nothing."""
    return _allowed(device)[1] in ("ieee", "none") and not torch.is_autocast_enabled(device.type)


def _allowed(device: torch.device) -> tuple[Any, str]:
    # torch's own annotations do not know of the second.
    settings = torch.backends.cuda.matmul if device.type == "cuda" else getattr(torch.backends.mkldnn, "matmul")  # noqa: B009
    return settings, settings.fp32_precision


def affine(base: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float = 1.0) -> Tensor:
    """``beta base + alpha left @ right`` of stacks [count, ., .]."""
    if left.shape[-1] >= LARGE and _is_for_onednn(left, right):
        product = _products(left, right)
        return (product if alpha == 1 else product.mul_(alpha)).add_(base, alpha=beta)
    return torch.baddbmm(base, left, right, beta=beta, alpha=alpha)


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` of stacks [count, ., .]."""
    if left.shape[-1] >= LARGE and _is_for_onednn(left, right):
        return _products(left, right)
    return torch.bmm(left, right)


def _is_for_onednn(left: Tensor, right: Tensor) -> bool:
    is_large = left.shape[-2] >= LARGE and right.shape[-1] >= LARGE
    return is_large and left.dtype == torch.float32 and left.device.type == "cpu" and _has_onednn()


@cache
def _has_onednn() -> bool:
    is_wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    # A private operator: where it is gone, the usual product is right, and slower.
    return torch._C._has_mkldnn and is_wide and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _products(left: Tensor, right: Tensor) -> Tensor:
    # The operator that torch.compile uses, a linear layer: x, W -> x W^T.
    linear = torch.ops.mkldnn._linear_pointwise
    products = [linear(_dense(a), _dense(b.mT), None, "none", [], "") for a, b in zip(left, right, strict=True)]
    return products[0].unsqueeze(0) if len(products) == 1 else torch.stack(products)


def _dense(matrix: Tensor) -> Tensor:
    """A matrix without gaps in memory, with which alone oneDNN is fast: a thousand times faster than otherwise."""
    return matrix if matrix.is_contiguous() or matrix.mT.is_contiguous() else matrix.contiguous()
