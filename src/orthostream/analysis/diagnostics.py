"""Similarity of representations and temporarily dead parameters, heard while a model trains.

Reference: Tuddenham et al., arXiv:2202.07052, section 3 and figure 9.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from orthostream.analysis.dead_parameters import dead_parameters
from orthostream.analysis.record import Recording
from orthostream.analysis.similarity import representation_similarity
from orthostream.errors import UsageError

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU)
# The official code looks at so many samples of a batch.
SAMPLES = 10
COUNTS = ("exact", "rows", "relative", "absolute")


class Diagnostics:
    """Listens to the outputs of all activations between :meth:`start` and :meth:`stop`, then counts dead parameters.

    :meth:`stop` is called after the backward pass and before the optimizer's step, while the raw gradients are there.
    An activation that is called several times in a forward is several layers: the second call of ``relu`` is
    ``relu#2``. Parameters with one axis (biases, norms) are not counted.

    Args:
        model: whose activations are modules; not compiled, since hooks change what is compiled.
        samples: of each batch whose representations are compared; a cost of ``samples * channels^2 * pixels``.

    Raises:
        UsageError: for fewer than one sample.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> diagnostics = Diagnostics(model)
        >>> diagnostics.start()
        >>> model(torch.rand(2, 3, 8, 8)).sum().backward()
        >>> diagnostics.stop()
        >>> sorted(diagnostics.collect())[:2]
        ['dead/0.weight/absolute', 'dead/0.weight/exact']
    """

    def __init__(self, model: nn.Module, samples: int = SAMPLES) -> None:
        if samples < 1:
            raise UsageError(f"representations are compared on one sample or more, got samples={samples}")
        self.samples = samples
        self._layers = {name: module for name, module in model.named_modules() if isinstance(module, ACTIVATIONS)}
        self._parameters = {name: p for name, p in model.named_parameters() if p.ndim > 1}
        self._handles: list[Any] | None = None
        self._calls: Counter[str] = Counter()
        self._values: dict[str, Tensor] = {}

    def start(self) -> None:
        """Forget earlier values and listen from the next forward on."""
        self._silence()
        self._values, self._calls = {}, Counter()
        self._handles = [
            module.register_forward_hook(partial(self._hear, name)) for name, module in self._layers.items()
        ]

    def stop(self) -> None:
        """Listen no longer, and count the dead parameters of the gradients that are there; harmless if not started."""
        if self._handles is None:
            return
        self._silence()
        totals: dict[str, list[Tensor]] = {count: [] for count in COUNTS}
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                continue
            found = dead_parameters(parameter.grad)
            for count in COUNTS:
                value = getattr(found, count).float()
                self._values[f"dead/{name}/{count}"] = value
                totals[count].append(value)
        self._values |= {f"dead/all/{count}": torch.stack(values).sum() for count, values in totals.items() if values}

    def collect(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """The values under the keys of the log, in one transfer from the device.

        Args:
            reduce: called once with all values and returns as many, such as the average over ranks.

        Returns:
            ``similarity/{layer}/mean``, ``.../variance``, ``.../zero_channels`` (means over samples) and
            ``.../threshold``; ``dead/{parameter}/{exact|rows|relative|absolute}`` and the sums ``dead/all/...``.

        Raises:
            UsageError: where nothing was heard.
        """
        if not self._values:
            raise UsageError(
                "nothing was heard: no map left an activation and no gradient was there between start() and stop()"
            )
        values = torch.stack([*self._values.values()])
        numbers = (values if reduce is None else reduce(values)).tolist()
        return dict(zip(self._values, numbers, strict=True))

    def _hear(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        # One channel, or tokens instead of maps, has no pair of channels to compare.
        if output.ndim != 4 or output.shape[1] < 2:
            return
        self._calls[name] += 1
        calls = self._calls[name]
        key = f"similarity/{name}" if calls == 1 else f"similarity/{name}#{calls}"
        # The backward pass must not run through what is measured.
        found = representation_similarity(output.detach()[: self.samples])
        self._values[f"{key}/mean"] = found.mean.mean().float()
        self._values[f"{key}/variance"] = found.variance.mean().float()
        self._values[f"{key}/zero_channels"] = found.zero.float().mean()
        self._values[f"{key}/threshold"] = found.mean.new_tensor(found.threshold).float()

    def _silence(self) -> None:
        for handle in self._handles or ():
            handle.remove()
        self._handles = None


class Listeners:
    """Several statistics as one, for a trainer that knows one.

    Args:
        parts: each started, stopped and collected in turn.
    """

    def __init__(self, parts: Sequence[Recording | Diagnostics]) -> None:
        self.parts = parts

    def start(self) -> None:
        for part in self.parts:
            part.start()

    def stop(self) -> None:
        for part in self.parts:
            part.stop()

    def collect(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        return {key: value for part in self.parts for key, value in part.collect(reduce).items()}
