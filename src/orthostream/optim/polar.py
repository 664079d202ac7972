"""Polar factors of matrices: the options, and which way is taken for which shape."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from orthostream.errors import UsageError, unknown
from orthostream.optim.decompositions import Completion, svd_factor
from orthostream.optim.factors import by_eigen, by_polynomials, scaled
from orthostream.optim.methods import CONVERGENT, DECOMPOSITIONS, METHODS, for_shape, schedule_of
from orthostream.optim.polynomial import Norm, direct_factor
from orthostream.optim.products import full_float32, is_full_float32
from orthostream.optim.schedules import Coefficients, Schedule, check_escape
from orthostream.shapes import describe

Precision: TypeAlias = Literal["float32", "bfloat16", "float64"]
# An iteration on the matrix, one on its Gram matrix, eigendecomposition of the Gram matrix in float64, singular value
# decomposition.
Way: TypeAlias = Literal["direct", "gram", "eigh", "svd"]

# Accuracy where none is asked for, and the best that rounding allows, by precision.
DEFAULT_TOL = {"float32": 2e-3, "bfloat16": 2e-2, "float64": 1e-10}
BEST_TOL = {"float32": 1e-6, "bfloat16": 1e-2, "float64": 1e-13}
# Below this accuracy in float32 ``auto`` decomposes: rounding of Gram matrices blurs more than that.
EXACT_TOL = 1e-5
# Up to this smaller side on a CPU an eigendecomposition in float64 costs about as much as an iteration.
EXACT_SIDE = 12
# From this smaller side on a CPU gradients of real networks nearly always have directions that an iteration misses, and
# decomposing at once costs less than finding that out.
LARGE_SIDE = 192
# From this accuracy on ``auto`` takes what an iteration gives: whoever asks for less wants it faster.
ROUGH_TOL = 1e-2
# Ratio of the sides from which an iteration on the Gram matrix costs no more than one on the matrix, and from which
# methods take it that are asked for by name: it rounds more.
OBLONG, VERY_OBLONG = 1.5, 2.0


@dataclass(frozen=True, kw_only=True)
class Polar:
    """Validated options of one way to compute polar factors.

    The polar factor of ``M = U S V^T`` with rank r is ``U_r V_r^T``, the nearest partial isometry. Polynomial methods
    divide M by an upper bound of its largest singular value and apply odd polynomials to the quotients, so that all
    end near 1; those below ``floor`` end below 1.

    ``auto`` iterates as well, with a schedule made for ``tol``. Below a ``tol`` of 1e-2 on a CPU it also looks at its
    results: matrices whose singular values an iteration in this precision does not bring within ``tol`` are decomposed
    in float64, large ones at once, so that the root mean square distance is within ``tol`` whatever the condition. On
    other devices looking would mean waiting, and ``floor`` holds.

    Args:
        method: one of :data:`METHODS`.
        steps: of an iteration; left out, as many as ``tol`` needs, or as published where the method does not converge.
        tol: wanted accuracy: each singular value from ``floor`` times the norm ends within ``tol`` of 1, before
            rounding. By default 2e-3 in float32, 2e-2 in bfloat16, 1e-10 in float64.
        floor: smallest singular value, in units of the norm, that the accuracy is meant for.
        completion: ``partial`` leaves null directions at zero; ``svd`` gives all ``min(rows, columns)`` singular
            values 1, as the official code of the paper does, by ``method='svd'``. A zero matrix stays zero in both;
            the official code makes it a truncated identity.
        precision: of the iteration. Lower dtypes are raised to it, float64 stays float64 unless ``bfloat16`` is
            asked for.
        coefficients: of ``method='custom'``: ``(a, b, c)`` of each step.
        norm: the upper bound: ``frobenius`` as in published methods, or ``gram``, ``sqrt(||M M^T||_F)``, which is
            nearer to the largest singular value. Left out: ``frobenius`` where a published method does published
            steps, ``gram`` where the schedule is made for ``tol``.

    Raises:
        UsageError: for unknown names, options that do not fit each other, a ``tol`` that the method or the precision
            does not reach, and coefficients under which singular values escape.

    Example:
        >>> import torch
        >>> Polar(method="svd")(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]])).abs()
        tensor([[1., 0., 0.],
                [0., 1., 0.]])
        >>> f"{Polar(method='muon').stated_error():.2f}"
        '0.53'

    Reference:
        Tuddenham et al., arXiv:2202.07052, section 2; Amsel et al., The Polar Express, arXiv:2505.16932.
    """

    method: str = "auto"
    steps: int | None = None
    tol: float | None = None
    floor: float = 1e-3
    completion: Completion = "partial"
    precision: Precision = "float32"
    coefficients: Coefficients | None = None
    norm: Norm | None = None
    schedule: Schedule | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        if self.coefficients is not None:
            object.__setattr__(self, "coefficients", _triples(self.coefficients))
        if self.norm is None:
            is_made_for_tol = self.method in CONVERGENT and self.steps is None
            object.__setattr__(self, "norm", "gram" if is_made_for_tol else "frobenius")
        object.__setattr__(self, "schedule", _schedule(self))

    @torch.no_grad()
    def __call__(self, matrix: Tensor) -> Tensor:
        """Polar factors.

        Args:
            matrix: [..., rows, columns], floating point, each trailing matrix for itself.

        Returns:
            The same shape and dtype. A matrix with NaN or infinite entries gives NaN, and no other one is touched.

        Raises:
            UsageError: for fewer than two axes or a dtype that is not floating point.
        """
        if matrix.ndim < 2 or not matrix.is_floating_point():
            raise UsageError(
                f"polar takes floating-point matrices [..., rows, columns], got {describe(matrix)}; "
                "flatten the kernel of a convolution first: weight.flatten(1)"
            )
        if matrix.numel() == 0:
            return matrix.clone()
        stack = matrix.unsqueeze(0) if matrix.ndim == 2 else matrix.flatten(0, -3)
        return self.factors([stack])[0].view(matrix.shape)

    def way(self, rows: int, columns: int, device: torch.device) -> Way:
        """How matrices of this shape are computed on this kind of device."""
        small, large = sorted((rows, columns))
        if self.schedule is None:
            return "svd" if self.method == "svd" or self.completion == "svd" else "eigh"
        if self.method == "auto" and small == 1:
            return "eigh"
        if self.precision == "bfloat16":
            return "direct"
        if self.method != "auto":
            return "gram" if large >= VERY_OBLONG * small else "direct"
        is_odd_size = small <= EXACT_SIDE or small >= LARGE_SIDE or large < OBLONG * small
        if device.type == "cpu" and self.precision == "float32" and self._is_exact and is_odd_size:
            return "eigh"
        return "gram" if large >= OBLONG * small else "direct"

    def schedule_for(self, rows: int, columns: int) -> Schedule:
        """The schedule of an iteration for matrices of this shape.

        Raises:
            UsageError: where ROOT's coefficients for the shape let singular values escape.
        """
        assert self.schedule is not None
        return for_shape(self.method, self.schedule, rows, columns, self.precision)

    def stated_error(self, floor: float | None = None) -> float:
        """Largest ``|p(x) - 1|`` over singular values x from ``floor`` to 1 times the norm, in exact arithmetic.

        Args:
            floor: other than the one of the options.

        Returns:
            0 for decompositions. For ``auto``, where the way depends on the shape, that of its schedule.
        """
        return 0.0 if self.schedule is None else self.schedule.error(self.floor if floor is None else floor)

    def flops(self, rows: int, columns: int, device: torch.device) -> float:
        """Floating-point operations for one matrix, 2 for a multiply-add.

        Raises:
            UsageError: as :meth:`schedule_for`.
        """
        m, n = map(float, sorted((rows, columns)))
        way = self.way(rows, columns, device)
        if way == "svd":
            return 8 * m * m * n + 20 * m**3
        if way == "eigh":
            return 4 * m * m * n + 13 * m**3
        steps = len(self.schedule_for(rows, columns).coefficients)
        return steps * (4 * m * m * n + 2 * m**3) if way == "direct" else 4 * m * m * n + 2 * (4 * steps - 3) * m**3

    @torch.no_grad()
    def factors(self, stacks: Sequence[Tensor]) -> list[Tensor]:
        """Polar factors of stacks of matrices that are computed in the same way.

        Args:
            stacks: [count, rows, columns] each, none empty, on one device, with the same smaller side; with the method
                ROOT with the same larger side as well.

        Returns:
            New tensors of the same shapes and dtypes.
        """
        device = stacks[0].device
        rows, columns = stacks[0].shape[-2:]
        way = self.way(rows, columns, device)
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        for stack in stacks:
            dtype = torch.promote_types(dtype, stack.dtype)
        raised = [stack.to(torch.float64 if way == "eigh" else dtype) for stack in stacks]
        if is_full_float32(device):
            results = self._computed(way, raised, dtype)
        else:
            with full_float32(device):
                results = self._computed(way, raised, dtype)
        return [result.to(stack.dtype) for result, stack in zip(results, stacks, strict=True)]

    def _computed(self, way: Way, stacks: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        if way == "svd":
            return [svd_factor(scaled(stack), self.completion) for stack in stacks]
        if way == "eigh":
            return by_eigen(stacks, dtype)
        rows, columns = stacks[0].shape[-2:]
        schedule, norm = self.schedule_for(rows, columns), self.norm or "gram"
        if way == "direct":
            low = torch.bfloat16 if self.precision == "bfloat16" else None
            return [direct_factor(scaled(stack), schedule, norm, low) for stack in stacks]
        # Looking at results costs little on a CPU, and makes other devices wait.
        looks = self.method == "auto" and self._is_exact and stacks[0].device.type == "cpu"
        most = self._worst_condition(min(rows, columns), dtype) if looks else math.inf
        return by_polynomials(stacks, schedule, norm, most)

    def _worst_condition(self, side: int, dtype: torch.dtype) -> float:
        """Up to which condition an iteration on Gram matrices S reaches the accuracy.

        Rounding changes S by ``u ||S||``, and a singular value s by the share ``u ||S|| / (2 s^2)`` or less. It may
        have a quarter of the tolerance, most of which belongs to the schedule.
        """
        by_rounding = (self.wanted * side**0.5 / torch.finfo(dtype).eps) ** 0.5
        return min(by_rounding, (1 - self.wanted) / self.floor)

    @property
    def _is_exact(self) -> bool:
        """Whether ``auto`` holds to the accuracy whatever the condition, where it can look."""
        return self.wanted < ROUGH_TOL

    @property
    def wanted(self) -> float:
        """``tol``, or its default for the precision."""
        return DEFAULT_TOL[self.precision] if self.tol is None else self.tol


def polar(matrix: Tensor, **options: Any) -> Tensor:
    """The polar factor ``U_r V_r^T`` of matrices ``U S V^T``: the nearest partial isometry.

    Args:
        matrix: [..., rows, columns], floating point.
        **options: those of :class:`Polar`.

    Returns:
        The same shape and dtype.

    Raises:
        UsageError: as :class:`Polar`.

    Example:
        >>> import torch
        >>> factor = polar(torch.tensor([[2.0, 0.0], [0.0, -3.0], [0.0, 0.0]]), method="svd")
        >>> factor
        tensor([[ 1.,  0.],
                [ 0., -1.],
                [ 0.,  0.]])
    """
    return Polar(**options)(matrix)


def _check(options: Polar) -> None:
    """Refuse options that are unknown or do not fit each other."""
    method, steps, tol = options.method, options.steps, options.tol
    if method not in METHODS:
        raise UsageError(unknown("method of polar factors", method, METHODS))
    for what, given, known in (
        ("completion", options.completion, Completion),
        ("precision", options.precision, Precision),
        ("norm", options.norm or "gram", Norm),
    ):
        if given not in get_args(known):
            raise UsageError(unknown(what, given, get_args(known)))
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise UsageError(f"steps is a whole number from 1, got {steps!r}")
    if tol is not None and not 0 < tol < 1:
        raise UsageError(f"tol is a distance from 1, between 0 and 1, got {tol!r}")
    if not 0 < options.floor < 1:
        raise UsageError(f"floor is a share of the norm, between 0 and 1, got {options.floor!r}")
    if options.completion == "svd" and method not in ("auto", "svd"):
        raise UsageError(
            f"completion='svd' fills null directions, which method={method!r} leaves at zero; "
            "choose method='svd' or 'auto' with it"
        )
    if steps is not None and method in {"auto", *DECOMPOSITIONS}:
        raise UsageError(
            f"method={method!r} has no number of steps, got steps={steps}; "
            "give tol, or choose an iteration such as method='polar_express'"
        )
    if steps is not None and tol is not None:
        raise UsageError(f"steps={steps} and tol={tol} were both given; give one of them")
    if (options.coefficients is not None) != (method == "custom"):
        raise UsageError("coefficients and method='custom' belong together: give both or neither")
    best = BEST_TOL[options.precision]
    decomposes = method in DECOMPOSITIONS or (method == "auto" and options.precision != "bfloat16")
    if tol is not None and tol < best and not decomposes:
        raise UsageError(
            f"rounding in {options.precision} is larger than tol={tol:g}; "
            f"ask for {best:g} or more, a higher precision, or method='svd'"
        )


def _triples(given: Coefficients) -> Coefficients:
    """Coefficients as floats.

    Raises:
        UsageError: where they are no triples of numbers, or none at all.
    """
    try:
        triples = tuple((float(a), float(b), float(c)) for a, b, c in given)
    except (TypeError, ValueError):
        triples = ()
    if not triples:
        raise UsageError(f"coefficients are triples of numbers (a, b, c), one for each step, got {given!r}")
    return triples


def _schedule(options: Polar) -> Schedule | None:
    """The schedule of an iteration, checked; None where only decompositions are used.

    Raises:
        UsageError: where singular values escape, or the accuracy is not reached.
    """
    method, tol, wanted = options.method, options.tol, options.wanted
    limit = EXACT_TOL if options.precision == "float32" else BEST_TOL[options.precision]
    if method in DECOMPOSITIONS or options.completion == "svd" or (method == "auto" and wanted < limit):
        return None
    schedule = schedule_of(method, options.steps, wanted, options.floor, options.coefficients or ())
    check_escape(schedule, options.precision, f"method={method!r}")
    if tol is not None and (error := schedule.error(options.floor)) > tol:
        raise UsageError(
            f"method={method!r} brings singular values from {options.floor:g} of the norm within {error:.2g} of 1, "
            f"and tol={tol:g} was asked for; choose a larger tol or floor, or method='polar_express'"
        )
    return schedule
