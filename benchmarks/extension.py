"""The yardstick in C++ as a side of a comparison; built at its first use, which needs a compiler and ninja."""

from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.sites import Site

SOURCE = Path(__file__).with_name("extension.cpp")


def fits(site: Site) -> bool:
    """Whether the yardstick, which knows float32 vectors in one piece, can do this site."""
    lies_in_one_piece = len(site.shape) == 3 or site.channels_last or site.dim is not None
    return site.dtype == torch.float32 and site.update_dtype in (None, torch.float32) and lies_in_one_piece


@cache
def built() -> Any:
    from torch.utils.cpp_extension import load_inline

    flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp"]
    functions = ["forward", "backward"]
    return load_inline("orthostream_yardstick", SOURCE.read_text(), functions=functions, extra_cflags=flags)


class Extension(torch.autograd.Function):
    """``(x, update, length, eps) -> y``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, update: Tensor, length: int, eps: float) -> Tensor:
        y, coefficients = built().forward(x, update, length, eps)
        ctx.save_for_backward(x, y, coefficients)
        ctx.length, ctx.eps = length, eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *built().backward(grad, *ctx.saved_tensors, ctx.length, ctx.eps), None, None


def extension(x: Tensor, update: Tensor, *, site: Site, eps: float) -> Tensor:
    """The update of a site that :func:`fits`."""
    axes = (site.axes,) if isinstance(site.axes, int) else site.axes
    return Extension.apply(x, update, prod(site.shape[axis] for axis in axes), eps)
