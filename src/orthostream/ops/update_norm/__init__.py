"""The orthogonal update and the norm that reads the stream behind it, as one operation: fused where kernels run.

``reference.py`` runs the two in turn; ``triton.py`` is the pair as fused kernels, behind ``autograd.py``, with
``closed_form.py`` for what kernels cannot do. Under ``torch.compile`` the two run in turn and the compiler fuses them.
"""

import torch
from torch import Tensor

from orthostream.errors import unknown
from orthostream.ops.choice import KERNEL_DTYPES, choose
from orthostream.ops.orthogonal_update import check_operands
from orthostream.ops.orthogonal_update.layout import layout
from orthostream.ops.orthogonal_update.reference import Rule, Weight
from orthostream.ops.update_norm.autograd import OrthogonalUpdateNorm
from orthostream.ops.update_norm.reference import KINDS, Kind, Norm, in_turn, norm_is_widened
from orthostream.shapes import Axes, describe

__all__ = ["orthogonal_update_norm"]

# Longest vector that backward holds in registers, and the longest beside which it adds up gradients of weight and bias.
WIDEST = 16384
WIDEST_WITH_PARAMETERS = 8192
# What `torch.nn.functional.layer_norm` has by default.
LAYER_EPS = 1e-5


def orthogonal_update_norm(
    x: Tensor,
    update: Tensor,
    dim: Axes = -1,
    eps: float = 1e-6,
    strength: Weight = 1.0,
    *,
    norm: Kind = "layer",
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    norm_eps: float | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Write an update to the stream, orthogonally, and read the stream through the norm of the next branch.

    ``y = x + u - strength * s * x`` with ``s = <x, u> / (<x, x> + eps)``, and ``z = norm(y)`` over the last axis:
    LayerNorm ``(y - mean y) / sqrt(var y + norm_eps) * weight + bias``, or RMSNorm
    ``y / sqrt(mean y^2 + norm_eps) * weight``.

    Equal to :func:`orthogonal_update` and the norm in turn, up to the order of float32 sums; the norm sees y as it is
    rounded to the dtype of ``x``. On a CUDA device one kernel does both where ``dim`` is the last axis and the fastest
    in memory, at most 16384 wide (8192 with a weight), and where the norm computes in float32 or returns the dtype of
    ``x``: x and u are read once, y and z written once, and x, y and s kept for the backward pass. Elsewhere the two run
    in turn.

    Args:
        x: stream before the site [..., features], floating point.
        update: what the branch returned, of the same shape; its dtype may differ.
        dim: axis or axes of the inner products.
        eps: added to the squared L2 norm of ``x``, >= 0.
        strength: how much of the parallel part is removed; a number or a tensor of one element.
        norm: ``layer`` or ``rms``, over the last axis.
        weight: gain of the norm [features]; None for ones.
        bias: of LayerNorm [features]; None for zeros.
        norm_eps: added to the variance or the mean square; None for what torch takes: 1e-5 for LayerNorm, for
            RMSNorm the smallest step at 1 of the dtype it computes in (2^-23, in float64 2^-52).
        dtype: of z; None for what the norm returns, that of ``x``, or float32 under autocast on CUDA. A branch that
            begins with a linear layer under autocast casts z at once: naming its dtype here saves z in float32.

    Returns:
        ``(y, z)``: the stream after the site, with shape and dtype of ``x``, and its norm.

    Raises:
        ValueError: for an unknown norm, an RMSNorm with a bias, and what :func:`orthogonal_update` refuses.
        RuntimeError: where weight or bias are not [features].
        TypeError: where an operand is not floating point.
        KernelError: where kernels are forced and cannot run.

    Example:
        >>> import torch
        >>> x, u = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 3.0]])
        >>> y, z = orthogonal_update_norm(x, u, norm="rms")
        >>> y
        tensor([[2.0000, 3.0000]])
        >>> z
        tensor([[0.7845, 1.1767]])

    Reference:
        Oh et al., Orthogonal Residual Updates, NeurIPS 2025, arXiv:2505.11881, equations 3 to 5.
        Ba et al., Layer Normalization, arXiv:1607.06450; Zhang and Sennrich, Root Mean Square Layer Normalization,
        arXiv:1910.07467.
    """
    if norm not in KINDS:
        raise ValueError(unknown("norm", norm, KINDS))
    if norm == "rms" and bias is not None:
        raise ValueError(f"an RMSNorm has no bias, got one of {describe(bias)}")
    if norm_eps is None:
        # torch takes the step of the dtype it computes in, which is float32 for half precision.
        wide = torch.promote_types(x.dtype, torch.float32)
        norm_eps = LAYER_EPS if norm == "layer" else torch.finfo(wide).eps
    rule, reading = Rule(dim, eps, False, strength), Norm(norm, norm_eps, weight, bias)
    if not _is_fused(x, update, rule, reading, dtype):
        return in_turn(x, update, rule, reading, dtype)
    if dtype is None:
        dtype = torch.float32 if norm_is_widened(x) else x.dtype
    if isinstance(strength, Tensor):
        strength = strength.reshape(())
    y, z, _ = OrthogonalUpdateNorm.apply(x, update, strength, weight, bias, eps, norm, norm_eps, dtype)
    return y, z


def _is_fused(x: Tensor, update: Tensor, rule: Rule, norm: Norm, dtype: torch.dtype | None) -> bool:
    """Whether the kernels take these operands, and would return what the two in turn do."""
    if torch.compiler.is_compiling():
        return False
    parameters = [each for each in (norm.weight, norm.bias) if each is not None]
    if choose(x, update, *parameters).name != "triton":
        return False
    check_operands(x, update, rule.dim, rule.eps)
    axes = (rule.dim,) if isinstance(rule.dim, int) else tuple(rule.dim)
    if x.numel() == 0 or [axis % x.ndim for axis in axes] != [x.ndim - 1]:
        return False
    if x.shape[-1] > (WIDEST_WITH_PARAMETERS if parameters else WIDEST):
        return False
    # The update itself says what is wrong with such a strength.
    if isinstance(rule.strength, Tensor) and rule.strength.numel() != 1:
        return False
    shape = layout(x.shape, x.stride(), -1)
    if shape is None or shape.inner > 1:
        return False
    is_widened = norm_is_widened(x)
    # The norm would round z to its own dtype first, and takes parameters of another dtype nowhere or by other rules.
    if not (dtype is None or dtype == x.dtype or (dtype in KERNEL_DTYPES and (is_widened or x.dtype == torch.float32))):
        return False
    return all(
        each.shape == x.shape[-1:] and each.device == x.device and (is_widened or each.dtype == x.dtype)
        for each in parameters
    )
