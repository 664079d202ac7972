"""Exponential moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from orthostream.errors import UsageError


class WeightAverage:
    """``a <- decay * a + (1 - decay) * w`` after every optimizer step, in float32.

    Buffers (BatchNorm's running statistics) and integer tensors are copied, not averaged: they are averages
    already.

    Args:
        model: whose ``state_dict`` is averaged.
        decay: in [0, 1).

    Raises:
        UsageError: for a decay out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"train.ema_decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.model = model
        self._averaged = [p for p in model.parameters() if p.is_floating_point()]
        self._averages = [p.detach().float().clone() for p in self._averaged]

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        current = [p.detach().float() for p in self._averaged]
        torch._foreach_lerp_(self._averages, current, 1 - self.decay)

    def state(self) -> dict[str, Tensor]:
        """The average under the names of the model's ``state_dict``, buffers as they are now."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        averages = {names[id(p)]: a for p, a in zip(self._averaged, self._averages, strict=True)}
        return {name: averages.get(name, value.detach()) for name, value in self.model.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved average."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for parameter, average in zip(self._averaged, self._averages, strict=True):
            average.copy_(state[names[id(parameter)]])

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Inside the block the model computes with the average."""
        saved = [p.detach().clone() for p in self._averaged]
        with torch.no_grad():
            torch._foreach_copy_(list(self._averaged), self._averages)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list(self._averaged), saved)
