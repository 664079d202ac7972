"""Temporarily dead parameters: those that a gradient does not move. Pure functions."""

from dataclasses import dataclass

from torch import Tensor

from orthostream.errors import UsageError

OFFICIAL_THRESHOLD = 1e-4


@dataclass(frozen=True)
class DeadParameters:
    """How many elements of a gradient are zero, by four measures; tensors of shape ``()``.

    The absolute count grows when all gradients shrink, as they do towards the end of training; the relative one and
    the exact ones do not.

    Args:
        exact: elements that are zero.
        rows: components (filters, output neurons) whose elements are all zero.
        relative: elements with ``|g| <= threshold * max |g|``.
        absolute: elements with ``|g| <= threshold``, the count of the official code.
        size: elements in all.
        components: rows in all.
    """

    exact: Tensor
    rows: Tensor
    relative: Tensor
    absolute: Tensor
    size: int
    components: int


def dead_parameters(gradient: Tensor, threshold: float = OFFICIAL_THRESHOLD) -> DeadParameters:
    """Count the temporarily dead parameters of one tensor.

    Args:
        gradient: raw, as the backward pass left it; the first axis counts components.
        threshold: of the absolute count, and of the relative one in units of the largest element.

    Raises:
        UsageError: for a negative threshold, or a gradient without elements.

    Reference:
        Tuddenham et al., arXiv:2202.07052, figure 9. Differs: the paper speaks of zero gradients; its code counts
        ``|g| <= 1e-4``, which is ``absolute`` here.

    Example:
        >>> import torch
        >>> counts = dead_parameters(torch.tensor([[0.0, 0.0], [2.0, 1e-4]]))
        >>> [int(counts.exact), int(counts.rows), int(counts.relative), int(counts.absolute)]
        [2, 1, 3, 3]
    """
    if threshold < 0 or not gradient.numel():
        raise UsageError(
            f"dead parameters are counted in a gradient with elements, at a threshold of 0 or more; got shape "
            f"{tuple(gradient.shape)} and threshold {threshold}"
        )
    size = gradient.detach().abs()
    by_component = size.reshape(len(size) if size.ndim else 1, -1)
    return DeadParameters(
        exact=(size == 0).sum(),
        rows=(by_component == 0).all(1).sum(),
        relative=(size <= threshold * size.max()).sum(),
        absolute=(size <= threshold).sum(),
        size=size.numel(),
        components=len(by_component),
    )
