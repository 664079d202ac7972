"""Forward and backward pass of several sides on the same operands, each as a call that can be timed.

Forward is the forward of training: operands ask for gradients, and each side keeps what it keeps. Backward is
``torch.autograd.grad`` on a graph that is retained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch
import torch._functorch.config
from torch import Tensor

from benchmarks.cases import Failure
from benchmarks.sites import Site
from benchmarks.turns import Call, Clock, DeviceClock, WallClock, rotating, sets_beyond_cache

# From stream and update to whatever the side returns.
Side: TypeAlias = Callable[[Tensor, Tensor], Tensor | tuple[Tensor, ...]]


@dataclass
class Passes:
    """The calls by label, and the sides that raised."""

    forward: dict[str, Call] = field(default_factory=dict)
    backward: dict[str, Call] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


def prepared(site: Site, sides: Mapping[str, Side], device: torch.device) -> Passes:
    """Operands, as many sets as the cache of the device cannot hold, and calls that rotate among them."""
    torch.manual_seed(0)
    sets = [
        (site.tensor(device).requires_grad_(), site.tensor(device, site.update_dtype).requires_grad_())
        for _ in range(sets_beyond_cache(site.forward_bytes, device))
    ]
    passes = Passes()
    for label, side in sides.items():
        try:
            backward = rotating([backward_of(side, *operands) for operands in sets])
            # A side that fails shall do so before the turns of the others begin.
            backward()
        except Exception as error:
            passes.failures.append(Failure(label, error))
            continue
        passes.forward[label] = rotating([partial(side, *operands) for operands in sets])
        passes.backward[label] = backward
    return passes


def backward_of(side: Side, x: Tensor, update: Tensor) -> Call:
    """The gradients of stream and update, from gradients of all that the side returns."""
    # A compiled backward may otherwise write over what its graph keeps, which then cannot be retained.
    with torch._functorch.config.patch(donated_buffer=False):
        results = side(x, update)
    results = (results,) if isinstance(results, Tensor) else results
    grads = [torch.randn_like(result) for result in results]
    return partial(torch.autograd.grad, results, (x, update), grads, retain_graph=True)


def clock_of(device: torch.device) -> Clock:
    """Time of the device alone where that can be told, of the wall elsewhere."""
    return DeviceClock() if device.type == "cuda" else WallClock(device)
