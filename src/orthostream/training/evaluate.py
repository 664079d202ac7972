"""Exact evaluation: each prediction counts once, whatever the number of processes and the batch size.

A sample has one label, or one at each place of its tokens; each label is a prediction of its own.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from orthostream.errors import UsageError
from orthostream.training.distributed import World

# A label that neither loss nor counts look at: what fills the last window of a text.
IGNORED = -100


class EvaluationBatches(Protocol):
    """Batches of one process, and how many predictions all processes together must make."""

    total: int

    def __iter__(self) -> Any: ...


@dataclass(frozen=True)
class Evaluation:
    """Counts and means over a whole split.

    Args:
        n: predictions counted.
        top1: correct at first choice.
        top5: correct among the ``k`` likeliest classes.
        k: 5, or the number of classes where there are fewer.
        loss: mean cross entropy in nats, without label smoothing.
        confusion: ``[true class, predicted class]`` counts, where asked for.
    """

    n: int
    top1: int
    top5: int
    k: int
    loss: float
    confusion: tuple[tuple[int, ...], ...] | None = None

    @property
    def rates(self) -> dict[str, float]:
        """Shares of predictions that are correct, as fractions, under the keys of the log."""
        return {"acc@1": self.top1 / self.n, "acc@5": self.top5 / self.n}

    @property
    def per_class(self) -> tuple[float | None, ...] | None:
        """Share correct of each class; None for a class without samples."""
        if self.confusion is None:
            return None
        return tuple(row[i] / sum(row) if sum(row) else None for i, row in enumerate(self.confusion))

    def as_log(self, prefix: str = "val") -> dict[str, float]:
        """The values under the keys of the log; accuracies are fractions."""
        return {f"{prefix}/{key}": value for key, value in {"loss": self.loss, **self.rates, "n": self.n}.items()}

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        plain = {key: value for key, value in asdict(self).items() if value is not None}
        return plain | self.rates | ({} if self.confusion is None else {"per_class": self.per_class})


@dataclass(frozen=True, kw_only=True)
class Score:
    """The value by which evaluations are judged.

    Args:
        key: its name in the log, behind ``val/``.
        read: the value of an evaluation.
        higher_is_better: the direction of progress.

    Example:
        >>> ACCURACY.is_better(0.7, than=0.6), ACCURACY.is_better(0.6, than=0.6)
        (True, False)
    """

    key: str
    read: Callable[[Evaluation], float]
    higher_is_better: bool

    def is_better(self, value: float, *, than: float) -> bool:
        """Whether a value beats another one."""
        return value > than if self.higher_is_better else value < than

    def as_log(self, result: Evaluation, prefix: str = "val") -> dict[str, float]:
        """The values of an evaluation under the keys of the log, this one among them."""
        return result.as_log(prefix) | {f"{prefix}/{self.key}": self.read(result)}


ACCURACY = Score(key="acc@1", read=lambda result: result.rates["acc@1"], higher_is_better=True)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: EvaluationBatches,
    world: World,
    *,
    with_confusion: bool = False,
    autocast_dtype: torch.dtype | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Top-1, top-5 and mean cross entropy over a split.

    Args:
        model: called on images or tokens, returns logits ``[batch, classes]`` or ``[batch, classes, tokens]`` for
            labels ``[batch]`` or ``[batch, tokens]``; left in the mode it was in.
        batches: the share of this process; shares are disjoint and together the whole split.
        world: the processes.
        with_confusion: also count predictions by true class.
        autocast_dtype: compute logits under autocast in this dtype; None: as the weights are.
        on_batch: told the number of labels after each batch, for a progress bar.

    Returns:
        The same on every process.

    Raises:
        UsageError: where the predictions counted are not those of the split.
    """
    was_training = model.training
    model.eval()
    counts = torch.zeros(3, dtype=torch.int64, device=world.device)
    loss_sum = torch.zeros((), dtype=torch.float64, device=world.device)
    confusion: Tensor | None = None
    k = 0
    try:
        for inputs, labels in batches:
            inputs = inputs.to(world.device, non_blocking=True)
            labels = labels.to(world.device, non_blocking=True)
            with torch.autocast(world.device.type, autocast_dtype, enabled=autocast_dtype is not None):
                logits = model(inputs)
            logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
            k = min(5, logits.shape[1])
            hits = logits.topk(k, dim=1).indices == labels[:, None]
            is_counted = labels != IGNORED
            counts += torch.stack([is_counted.sum(), hits[:, 0].sum(), hits.sum()])
            loss_sum += functional.cross_entropy(logits.double(), labels, reduction="sum", ignore_index=IGNORED)
            if with_confusion:
                classes = logits.shape[1]
                if confusion is None:
                    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=world.device)
                pairs = (labels * classes + logits.argmax(1))[is_counted]
                confusion += torch.bincount(pairs, minlength=classes * classes)
            if on_batch is not None:
                on_batch(labels.numel())
    finally:
        model.train(was_training)
    return _gathered(counts, loss_sum, confusion, world, world.largest(k), batches.total, with_confusion)


def _gathered(
    counts: Tensor,
    loss_sum: Tensor,
    confusion: Tensor | None,
    world: World,
    k: int,
    expected: int,
    with_confusion: bool,
) -> Evaluation:
    n, top1, top5 = (int(count) for count in world.total(counts).tolist())
    if n != expected:
        raise UsageError(f"evaluation saw {n} samples of a split of {expected}; the loaders' shares are wrong")
    if n == 0:
        raise UsageError("the evaluation split is empty; name a source that has samples")
    table = None
    if with_confusion:
        # A process without any sample does not know the number of classes.
        size = world.largest(0 if confusion is None else confusion.numel())
        held = confusion if confusion is not None else torch.zeros(size, dtype=torch.int64, device=world.device)
        classes = round(size**0.5)
        table = tuple(tuple(row) for row in world.total(held).view(classes, classes).tolist())
    return Evaluation(n, top1, top5, k, float(world.total(loss_sum)) / n, table)
