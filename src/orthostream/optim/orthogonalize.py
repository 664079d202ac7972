"""Orthogonal gradients before any optimizer, and the normalised baselines of the same paper (arXiv:2202.07052)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from orthostream.errors import UsageError
from orthostream.optim.batch import plan, run
from orthostream.optim.normalize import Kind, NormRule
from orthostream.optim.polar import Polar
from orthostream.optim.rule import Chunk
from orthostream.optim.selection import Grouping, Selector, Which
from orthostream.optim.transform import AnyOptimizer, NonFinite, Transformation


@dataclass(frozen=True)
class PolarRule:
    """Each matrix becomes its polar factor."""

    polar: Polar

    def plan(self, shapes: Sequence[tuple[int, ...]], device: torch.device) -> tuple[Chunk, ...]:
        return plan(shapes, self.polar, device)

    def run(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        return run(matrices, self.polar)


def orthogonalize(
    optimizer: AnyOptimizer,
    model: nn.Module | None = None,
    *,
    which: Which = "weights",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    blocks: Mapping[str, int] | None = None,
    grouped: Grouping = "together",
    scale: str = "none",
    non_finite: NonFinite = "pass",
    process_group: Any = None,
    **polar: Any,
) -> AnyOptimizer:
    """Replace each weight's gradient by its polar factor before every step of an optimizer.

    A gradient of N components (filters, output neurons) with P weights each is a matrix ``G = U S V^T`` of
    ``N x P``. The optimizer is given ``U V^T`` instead, the nearest matrix with orthonormal rows (or columns, where
    N > P), whatever the size of the gradient: ``||U V^T||_F = sqrt(rank)``. With SGD and momentum this is
    Orthogonal-SGDM.

    The optimizer itself is returned. It keeps its class, its state and its checkpoints; learning rate schedulers,
    gradient scalers, clipping before the step, closures, ``foreach`` and ``fused`` work as before. Gradients are
    replaced in place, so that ``p.grad`` holds the polar factor after a step. Each parameter group has a switch:
    ``orthogonalize=False`` leaves a group as it is.

    Under FSDP2 gradients are put together on one owner each. Under DDP each process can do a share of the work:
    pass the ``DistributedDataParallel`` as ``model``, or ``process_group``. Otherwise each process works for itself.
    Results are the same, whatever the division.

    Args:
        optimizer: any ``torch.optim.Optimizer``.
        model: whose parameters they are: tells layers from embeddings, positions and tokens, and gives names.
            Without it a two-dimensional embedding looks like a layer's weight and is taken.
        which: ``weights``, ``paper`` (everything with two axes or more), ``conv``, ``muon`` or ``timm``
            (:class:`~orthostream.optim.selection.Selector`).
        include, exclude: patterns of parameter names.
        blocks: parts of fused weights by pattern, ``{"*.qkv.weight": 3}``.
        grouped: filters of a grouped convolution ``together`` in one matrix (official code) or each group ``apart``.
        scale: factor on the result: ``none``, ``muon``, ``moonlight`` or ``spectral``
            (:func:`~orthostream.optim.scale.factor`).
        non_finite: gradients with NaN or infinite elements: ``pass`` gives NaN to the optimizer, ``skip`` leaves the
            parameter and its state alone for this step, ``raise`` stops. The last two wait for the device.
        process_group: processes whose gradients are equal at every step, and that share the work.
        **polar: options of :class:`~orthostream.optim.polar.Polar`: ``method``, ``steps``, ``tol``, ``completion``,
            ``precision``.

    Returns:
        The optimizer that was given.

    Raises:
        UsageError: for options that do not fit, an optimizer that is wrapped already, or where nothing is chosen.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2, bias=False)
        >>> sgd = orthogonalize(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model)
        >>> model(torch.eye(3)).square().sum().backward()
        >>> sgd.step()
        >>> (model.weight.grad @ model.weight.grad.T).round(decimals=2).abs()
        tensor([[1., 0.],
                [0., 1.]])
        >>> print(transformation(sgd).table())  # doctest: +NORMALIZE_WHITESPACE
             parameter  shape  matrices  why
        yes  weight     2x3    2 x 3     weight of a layer (Linear)
        1 of 1 tensors are chosen, 6 of 6 numbers

    Reference:
        Tuddenham, Pruegel-Bennett and Hare, Orthogonalising gradients to speed up neural network optimisation,
        arXiv:2202.07052, section 2.
    """
    _check_optimizer(optimizer)
    model, process_group = _unwrapped(model, process_group)
    selector = Selector(which=which, include=include, exclude=exclude, blocks=blocks, grouped=grouped)
    made = Transformation(
        PolarRule(Polar(**polar)),
        selector,
        group_key="orthogonalize",
        scale=scale,
        non_finite=non_finite,
        process_group=process_group,
    )
    return made.attach(optimizer, model)


def normalize(
    optimizer: AnyOptimizer,
    model: nn.Module | None = None,
    *,
    kind: Kind,
    which: Which = "weights",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    equal_length: bool = False,
    non_finite: NonFinite = "pass",
    process_group: Any = None,
) -> AnyOptimizer:
    """Divide each weight's gradient by its norm before every step: the baselines of the paper.

        whole:      G / ||G||_F
        component:  each row of G by its own norm

    Zero gradients and zero rows stay zero; the official code divides by zero there. Works like :func:`orthogonalize`
    in everything else; the switch of a group is ``normalize``.

    Args:
        optimizer: any ``torch.optim.Optimizer``.
        model: as for :func:`orthogonalize`.
        kind: ``whole`` (N-SGDM) or ``component`` (CN-SGDM).
        which, include, exclude: which tensors, as for :func:`orthogonalize`.
        equal_length: scale results to ``sqrt(min(N, P))``, the length of a polar factor, so that both methods take
            steps of one length at one learning rate.
        non_finite, process_group: as for :func:`orthogonalize`.

    Returns:
        The optimizer that was given.

    Raises:
        UsageError: as for :func:`orthogonalize`.

    Example:
        >>> layer = torch.nn.Linear(3, 2)
        >>> sgd = normalize(torch.optim.SGD(layer.parameters(), lr=0.1), layer, kind="whole")
        >>> layer(torch.ones(1, 3)).sum().backward()
        >>> sgd.step()
        >>> layer.weight.grad.norm()
        tensor(1.)

    Reference:
        arXiv:2202.07052, section 3.1.
    """
    _check_optimizer(optimizer)
    model, process_group = _unwrapped(model, process_group)
    made = Transformation(
        NormRule(kind, equal_length),
        Selector(which=which, include=include, exclude=exclude),
        group_key="normalize",
        non_finite=non_finite,
        process_group=process_group,
    )
    return made.attach(optimizer, model)


def _check_optimizer(optimizer: object) -> None:
    if not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"orthogonalize takes a torch.optim.Optimizer, got {type(optimizer).__name__}; make the optimizer first: "
            "orthogonalize(torch.optim.SGD(model.parameters(), lr=0.01), model)"
        )


def _unwrapped(model: nn.Module | None, process_group: Any) -> tuple[nn.Module | None, Any]:
    """The plain model, and the processes that DDP keeps equal."""
    if isinstance(model, DistributedDataParallel):
        return model.module, process_group if process_group is not None else model.process_group
    return model, process_group
