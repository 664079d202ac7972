"""The orthogonal residual update: the public function picks an implementation, which never changes the result.

``reference.py`` is the formula; ``closed_form.py`` the same with a backward that keeps less, ``blocked.py`` that on a
CPU, some vectors at a time, and ``triton.py`` that as fused kernels: all three behind ``autograd.py``, and the kernels
behind ``registered.py`` where a compiler must not look inside.
"""

import torch
from torch import Tensor

from orthostream.ops.choice import Implementation
from orthostream.ops.orthogonal_update import registered
from orthostream.ops.orthogonal_update.autograd import OrthogonalUpdate
from orthostream.ops.orthogonal_update.engine import choose_for, engine_of
from orthostream.ops.orthogonal_update.reference import (
    Rule,
    Weight,
    accumulation_dtype,
    parallel_coefficient,
    reference,
)
from orthostream.shapes import Axes, describe

__all__ = ["decompose", "implementation", "orthogonal_update"]


def orthogonal_update(
    x: Tensor,
    update: Tensor,
    dim: Axes = -1,
    eps: float = 1e-6,
    strength: Weight = 1.0,
    *,
    stream_weight: Weight = 1.0,
    update_weight: Weight = 1.0,
    clamp: bool = False,
) -> Tensor:
    """Add to the stream only the part of the update that is orthogonal to it.

    ``y = x + u - strength * s * x`` with ``s = <x, u> / (<x, x> + eps)``, the inner products over ``dim``.

    Products, sums and the quotient are taken in float32 (float64 where an operand is float64) and the
    result is rounded once to the dtype of ``x``, also under autocast. ``<x, y - x> = eps * s`` at strength 1, so
    the norm of the stream never shrinks beyond eps. A zero vector of ``x`` receives the whole update.

    The cosine that remains between x and y - x, where ``|u|`` is about ``|x|`` and x is not of the size of eps, is at
    most 1e-13 in float64 and 1e-6 in float32; in half precision it is that of one rounding of y, at most 5e-3 in
    bfloat16 and 5e-4 in float16 (widths from 64).

    Args:
        x: stream before the site, any shape, floating point.
        update: what the branch returned, of the same shape; its dtype may differ.
        dim: one axis (each token or pixel on its own: "feature"), or several ("global": on a map
            ``(1, 2, 3)``). Over a tokens axis the projection sees later tokens: never in a causal model.
        eps: added to the squared L2 norm, >= 0. With 0 (or less than 1e-45 in float32) a zero vector of ``x``
            gives NaN.
        strength: how much of the parallel part is removed: 0 is the plain sum (exactly), 1 the orthogonal
            update. A tensor of one element serves as a dial that changes without a new compilation, and
            receives a gradient where it asks for one. So do the two weights.
        stream_weight: factor of ``x`` in the sum, ``y = p x + q u - strength * s * x``.
        update_weight: factor of ``u`` in the sum (``s`` is that of the update without it).
        clamp: divide by ``max(<x, x>, eps)`` instead, as the authors' code does where a variant stands on the
            plain sum.

    Returns:
        The stream after the site, with shape and dtype of ``x``.

    Raises:
        ValueError: where shapes differ, an axis is out of range or named twice, eps is negative, or a
            weight has more than one element.
        TypeError: where an operand is not floating point.
        KernelError: where kernels are forced and cannot run; see :func:`implementation`.

    Example:
        >>> import torch
        >>> x, u = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 3.0]])
        >>> orthogonal_update(x, u)
        tensor([[2.0000, 3.0000]])

    Reference:
        Oh et al., Orthogonal Residual Updates, NeurIPS 2025, arXiv:2505.11881, equations 3 to 5.
        Differs: the authors multiply in the dtype of the operands, which overflows in float16 and
        truncates float64.
    """
    check_operands(x, update, dim, eps)
    rule = Rule(
        dim,
        eps,
        clamp,
        _one_element("strength", strength),
        _one_element("stream_weight", stream_weight),
        _one_element("update_weight", update_weight),
    )
    choice = choose_for(x, update, dim)
    if choice.name == "reference":
        return reference(x, update, rule)
    if choice.name == "triton" and torch.compiler.is_compiling():
        return registered.apply(x, update, rule)
    weights = (rule.strength, rule.stream_weight, rule.update_weight)
    result: Tensor = OrthogonalUpdate.apply(x, update, *weights, dim, eps, clamp, engine_of(choice))[0]
    return result


def implementation(x: Tensor, update: Tensor, dim: Axes = -1) -> Implementation:
    """Which implementation :func:`orthogonal_update` takes for these operands, and why.

    The environment variable ``ORTHOSTREAM_IMPLEMENTATION`` (``reference``, ``closed_form``, ``blocked`` or
    ``triton``) forces one for a process, :func:`orthostream.ops.forced` for a block of code. Under a function transform
    the formula runs whatever is forced.

    Args:
        x: stream.
        update: what would be added to it.
        dim: axis or axes of the inner products.

    Returns:
        The name and the reason.

    Raises:
        KernelError: where kernels are forced and cannot run on these operands.

    Example:
        >>> import torch
        >>> implementation(torch.ones(2, 3), torch.ones(2, 3)).name
        'closed_form'
    """
    check_operands(x, update, dim, 0.0)
    return choose_for(x, update, dim)


def _one_element(name: str, weight: Weight) -> Weight:
    if isinstance(weight, Tensor):
        if weight.numel() != 1:
            raise ValueError(f"{name} must be a number or a tensor of one element, got {describe(weight)}")
        # With no axes of its own it follows the dtype and the device of the stream.
        return weight.reshape(()) if weight.ndim else weight
    return weight


def decompose(
    x: Tensor, update: Tensor, dim: Axes = -1, eps: float = 1e-6, *, clamp: bool = False
) -> tuple[Tensor, Tensor]:
    """Split an update into its parts parallel and orthogonal to the stream.

    ``parallel = s * x`` and ``orthogonal = u - s * x`` with ``s = <x, u> / (<x, x> + eps)``. They sum to ``u``.

    Args:
        x: stream before the site, any shape, floating point.
        update: what the branch returned, of the same shape.
        dim: axis or axes of the inner products, as in :func:`orthogonal_update`.
        eps: added to the squared L2 norm.
        clamp: divide by ``max(<x, x>, eps)`` instead, as the authors' code does where a variant stands on the
            plain sum.

    Returns:
        ``(parallel, orthogonal)``, each of the shape of ``update`` and the wider dtype of the two operands.

    Raises:
        ValueError: where shapes differ, an axis is out of range or named twice, or eps is negative.
        TypeError: where an operand is not floating point.

    Example:
        >>> import torch
        >>> parallel, orthogonal = decompose(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0]))
        >>> orthogonal
        tensor([2.3842e-07, 3.0000e+00])

    Reference:
        Oh et al., arXiv:2505.11881, equation 3.
    """
    check_operands(x, update, dim, eps)
    dtype = accumulation_dtype(x, update)
    wide_x, wide_update = x.to(dtype), update.to(dtype)
    coefficient = parallel_coefficient(wide_x, wide_update, dim, eps, clamp=clamp)
    parallel = coefficient * wide_x
    result_dtype = torch.promote_types(x.dtype, update.dtype)
    return parallel.to(result_dtype), (wide_update - parallel).to(result_dtype)


def check_operands(x: Tensor, update: Tensor, dim: Axes, eps: float) -> None:
    """Refuse operands that would broadcast, wrap around or divide by a negative number."""
    if x.shape != update.shape:
        raise ValueError(
            f"stream and update must have one shape, got stream {describe(x)} and update {describe(update)}; "
            "project the stream to the new width before the site (Connection.project)"
        )
    if not (x.is_floating_point() and update.is_floating_point()):
        raise TypeError(f"stream and update must be floating point, got {describe(x)} and {describe(update)}")
    if x.ndim == 0:
        raise ValueError("a stream has one axis or more; a single number has no axes to take an inner product over")
    axes = (dim,) if isinstance(dim, int) else tuple(dim)
    inside = [axis for axis in axes if -x.ndim <= axis < x.ndim]
    if not axes or len(inside) < len(axes) or len({axis % x.ndim for axis in axes}) < len(axes):
        raise ValueError(
            f"dim must name one or more distinct axes between {-x.ndim} and {x.ndim - 1} "
            f"of a stream {describe(x)}, got {dim}"
        )
    if not eps >= 0:
        raise ValueError(f"eps is added to a squared norm and must be >= 0, got {eps}")
