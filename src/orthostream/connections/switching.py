"""Orthogonal with a probability: at each optimizer step every block draws anew which residual it has."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from orthostream.connections.orthogonal import Orthogonal
from orthostream.errors import UsageError, unknown

AtEvaluation: TypeAlias = Literal["orthogonal", "linear", "last"]


class StepSwitch:
    """Turns the orthogonal connections of a model into plain sums and back, block by block.

    At every optimizer step each block is orthogonal with probability p, and else linear: the strength of its
    connections is their initial one, or 0, which is the plain sum exactly. All connections of a block switch together.

    The draw is a pure function of seed, step and block. Hence all processes of a run agree on it, a resumed run goes on
    as the uninterrupted one, and nothing has to be saved. A block that is orthogonal at p is so at every higher p.

    Args:
        connections: connections, or all modules of a model (``model.modules()``); those without a strength are
            left as they are.
        probability: that a block is orthogonal at a step, from 0 to 1.
        seed: of the run.
        at_evaluation: what evaluation uses: ``orthogonal`` or ``linear`` in all blocks, or the ``last`` draw.

    Raises:
        UsageError: for a probability out of range, an unknown ``at_evaluation``, or where no connection can switch.

    Example:
        >>> connection = Orthogonal()
        >>> switch = StepSwitch([connection], probability=0.5, seed=42)
        >>> switch.step(0)
        >>> connection.strength
        tensor(0.)
        >>> switch.evaluation()
        >>> connection.strength
        tensor(1.)

    Reference:
        The probability ablation of arXiv:2505.11881. Differs: the authors' code draws for every micro-batch, on each
        process for itself and without a seed.
    """

    def __init__(
        self,
        connections: Iterable[nn.Module],
        probability: float,
        seed: int,
        at_evaluation: AtEvaluation = "orthogonal",
    ) -> None:
        if not 0 <= probability <= 1:
            raise UsageError(f"the probability of the orthogonal update is between 0 and 1, got {probability}")
        if at_evaluation not in get_args(AtEvaluation):
            raise UsageError(unknown("at_evaluation", at_evaluation, get_args(AtEvaluation)))
        self.probability, self.seed, self.at_evaluation = probability, seed, at_evaluation
        self._blocks: dict[int, list[Orthogonal]] = defaultdict(list)
        for connection in connections:
            if isinstance(connection, Orthogonal) and "write" in connection.site.verbs:
                self._blocks[connection.site.block].append(connection)
        if not self._blocks:
            raise UsageError(
                "a probability switches connections that have a strength, and there is none; "
                "use it with connection 'orthogonal', or leave the probability out"
            )

    def step(self, step: int) -> None:
        """Set every block for this optimizer step, counted from 0."""
        draws = _uniform(self.seed, step, 1 + max(self._blocks))
        self._set({block: bool(draws[block] < self.probability) for block in self._blocks})

    def evaluation(self) -> None:
        """Set every block for evaluation, until the next :meth:`step`."""
        if self.at_evaluation != "last":
            self._set(dict.fromkeys(self._blocks, self.at_evaluation == "orthogonal"))

    def _set(self, is_orthogonal: dict[int, bool]) -> None:
        for block, connections in self._blocks.items():
            for connection in connections:
                connection.strength.fill_(connection.initial_strength if is_orthogonal[block] else 0.0)


def _uniform(seed: int, step: int, count: int) -> Tensor:
    """Numbers in [0, 1) that depend on seed and step alone."""
    # torch's generator looks at the low 32 bits of its seed only; the digest mixes both numbers into them.
    digest = hashlib.sha256(f"{seed} {step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
    return torch.rand(count, generator=generator, device="cpu")
