"""Layer-wise adaptive rates, in the form of the Barlow Twins reference."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from orthostream.errors import UsageError


class LARS(Optimizer):
    """SGD with momentum whose step in each layer is proportional to the norm of the layer's weights.

    For a weight ``w`` of two or more axes (or none) with gradient ``g``:

        d = g + weight_decay * w
        d = d * trust * ||w|| / ||d||      (factor 1 where either norm is 0)
        v = momentum * v + d
        w = w - lr * v

    Vectors (biases, scales of norms) neither decay nor adapt: ``d = g``.

    Args:
        params: parameters or groups.
        lr: learning rate.
        momentum: decay of the velocity.
        weight_decay: of weights.
        trust: the factor on the ratio of norms.

    Raises:
        UsageError: for values out of range.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> LARS(layer.parameters(), lr=0.2).step()

    Reference:
        You, Gitman and Ginsburg, arXiv:1708.03888; the variant without adaptation of vectors is that of
        Barlow Twins, arXiv:2103.03230.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay), ("trust", trust)):
            if value < 0:
                raise UsageError(f"LARS: {name} must be 0 or more, got {value}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group, [parameter for parameter in group["params"] if parameter.grad is not None])
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        if not parameters:
            return
        velocities = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            velocities.append(state["momentum_buffer"])
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, [_direction(parameter, group) for parameter in parameters])
        torch._foreach_add_(parameters, torch._foreach_mul(velocities, group["lr"]), alpha=-1)


def _direction(parameter: Tensor, group: dict[str, Any]) -> Tensor:
    assert parameter.grad is not None
    if parameter.ndim == 1:
        return parameter.grad
    direction = parameter.grad.add(parameter, alpha=group["weight_decay"])
    size, length = parameter.norm(), direction.norm()
    return direction.mul_(torch.where((size > 0) & (length > 0), group["trust"] * size / length, 1.0))
