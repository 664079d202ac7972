"""Parallel streams read and written as one operation each; the implementation never changes the result.

``reference.py`` is the formula; ``closed_form.py`` the same with a backward that keeps less, and ``triton.py`` the
same as fused kernels, both behind ``autograd.py``. All of them see streams as rows ``[..., n, C]``: other layouts are
moved there, which copies nothing.
"""

import torch
from torch import Tensor

from orthostream.ops.choice import Implementation
from orthostream.ops.streams import reference
from orthostream.ops.streams.autograd import ReadStreams, WriteStreams
from orthostream.ops.streams.engine import choose_for, engine_of
from orthostream.shapes import describe

__all__ = ["read_streams", "write_streams"]


def read_streams(streams: Tensor, weights: Tensor, axis: int = -2) -> Tensor:
    """Read one branch input from n parallel streams.

    ``x = sum_i w_i X_i``, with weights of their own for each token or pixel.

    Products and sums are taken in float32 (float64 where an operand is float64) and the result is rounded once to the
    dtype of the streams, also under autocast. Backward keeps both operands and nothing else.

    Args:
        streams: X, floating point, with the features just behind the streams: ``[..., n, C]``, or maps
            ``[B, n, C, H, W]`` with ``axis=1``.
        weights: w, the shape of the streams without the axis of features, the streams last: ``[..., n]``, or
            ``[B, H, W, n]`` for maps. Weights that all places share may be expanded; they are not copied.
        axis: that of the streams.

    Returns:
        The branch input, in the dtype of the streams and their shape without the axis of streams.

    Raises:
        ValueError: where shapes do not match or the axis is out of range.
        TypeError: where an operand is not floating point.
        KernelError: where kernels are forced and cannot run.

    Example:
        >>> import torch
        >>> streams = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
        >>> read_streams(streams, torch.tensor([1.0, 0.5]))
        tensor([ 6., 12., 18.])

    Reference:
        Zhu et al., Hyper-Connections, ICLR 2025, arXiv:2409.19606, equation 3.
    """
    axis = _checked_axis(streams, axis)
    rows = streams.movedim((axis, axis + 1), (-2, -1))
    _check("weights", weights, rows.shape[:-1], streams)
    choice = choose_for(rows, weights)
    if _is_traced(choice):
        x = reference.read(rows, weights)
    else:
        x = ReadStreams.apply(rows, weights, engine_of(choice))
    return x.movedim(-1, axis)


def write_streams(streams: Tensor, update: Tensor, mixing: Tensor, weights: Tensor, axis: int = -2) -> Tensor:
    """Mix n parallel streams and add the update of a branch to each.

    ``X' = M X + b (outer) u``, that is ``X'_i = sum_j M_ij X_j + b_i u``, with M and b of their own for each token or
    pixel.

    Products and sums are taken in float32 (float64 where an operand is float64) and the result is rounded once to the
    dtype of the streams, also under autocast. Backward keeps the operands and nothing else.

    Args:
        streams: X, floating point, with the features just behind the streams: ``[..., n, C]``, or maps
            ``[B, n, C, H, W]`` with ``axis=1``.
        update: u, what the branch returned: the shape of the streams without their axis; its dtype may differ.
        mixing: M, row i what stream i becomes: ``[..., n, n]``, or ``[B, H, W, n, n]`` for maps.
        weights: b, ``[..., n]``, or ``[B, H, W, n]`` for maps. A matrix or weights that all places share may be
            expanded; they are not copied.
        axis: that of the streams.

    Returns:
        The streams after the site, of the shape and dtype of those before.

    Raises:
        ValueError: where shapes do not match or the axis is out of range.
        TypeError: where an operand is not floating point.
        KernelError: where kernels are forced and cannot run.

    Example:
        >>> import torch
        >>> streams = torch.tensor([[1.0, 2.0], [10.0, 20.0]])
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> write_streams(streams, torch.tensor([5.0, 5.0]), swap, torch.tensor([1.0, 0.0]))
        tensor([[15., 25.],
                [ 1.,  2.]])

    Reference:
        Zhu et al., Hyper-Connections, ICLR 2025, arXiv:2409.19606, equations 1 to 5.
    """
    axis = _checked_axis(streams, axis)
    rows = streams.movedim((axis, axis + 1), (-2, -1))
    _check("update", update, streams.shape[:axis] + streams.shape[axis + 1 :], streams)
    _check("mixing", mixing, (*rows.shape[:-1], rows.shape[-2]), streams)
    _check("weights", weights, rows.shape[:-1], streams)
    update = update.movedim(axis, -1)
    choice = choose_for(rows, update, mixing, weights)
    if _is_traced(choice):
        written = reference.write(rows, update, mixing, weights)
    else:
        written = WriteStreams.apply(rows, update, mixing, weights, engine_of(choice))
    return written.movedim((-2, -1), (axis, axis + 1))


def _is_traced(choice: Implementation) -> bool:
    """Whether the formula itself runs: for function transforms, and for compilers, which decide what to keep."""
    return choice.name == "reference" or torch.compiler.is_compiling()


def _checked_axis(streams: Tensor, axis: int) -> int:
    """The axis counted from the first, with one of features behind it."""
    first = axis + streams.ndim if axis < 0 else axis
    if not 0 <= first < streams.ndim - 1:
        raise ValueError(
            f"axis must be that of the streams, with the features just behind it; got {axis} for {describe(streams)}"
        )
    if not streams.is_floating_point():
        raise TypeError(f"streams must be floating point, got {describe(streams)}")
    return first


def _check(name: str, operand: Tensor, shape: tuple[int, ...], streams: Tensor) -> None:
    if operand.shape != shape:
        raise ValueError(
            f"{name} of streams {describe(streams)} must have shape {list(shape)}, got {describe(operand)}"
        )
    if not operand.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {describe(operand)}")
