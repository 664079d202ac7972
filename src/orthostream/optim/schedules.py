"""Coefficients of polynomial iterations for the polar factor, what they do to singular values, and which are safe.

Step k of an iteration is the odd polynomial ``p_k(x) = a x + b x^3 + c x^5`` of all singular values at once. A schedule
is the list of its ``(a, b, c)``. Everything here is arithmetic on numbers; matrices are in ``polynomial.py``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from orthostream.errors import UsageError

Triple: TypeAlias = tuple[float, float, float]
Coefficients: TypeAlias = tuple[Triple, ...]

CUBIC: Triple = (1.5, -0.5, 0.0)
QUINTIC: Triple = (15 / 8, -10 / 8, 3 / 8)
MUON: Triple = (3.4445, -4.7750, 2.0315)
# Of an odd quintic whose slope at 1 is zero, as the last steps after Muon's.
REFINING: Triple = (2.0, -1.5, 0.5)

YOU: Coefficients = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
CANS: Coefficients = (
    (8.4703, -25.1081, 18.6293),
    (4.1828, -3.1087, 0.5806),
    (3.9619, -2.9541, 0.5630),
    (3.2866, -2.4647, 0.5074),
    (2.2737, -1.6447, 0.4162),
)
CUBIC5: Coefficients = (
    (3.3656576, -3.3420992, 0.0),
    (2.5744352, -1.4957376, 0.0),
    (2.5368962, -1.4312570, 0.0),
    (2.4418906, -1.2764040, 0.0),
    (2.2230472, -0.9630650, 0.0),
)
# By the smaller and the larger side; all other shapes take Muon's.
ROOT: dict[tuple[int, int], Triple] = {
    (2048, 2048): (3.4916, -4.8224, 2.1095),
    (2048, 3072): (3.4509, -4.5790, 1.9325),
    (2048, 8192): (2.9794, -3.6674, 1.6207),
    (2048, 16384): (3.1943, -3.8221, 1.5322),
}

# Most steps that are tried to reach an accuracy.
MOST_STEPS = 64
# Rounding in a step moves singular values by about this share of the largest: what a schedule has to bear.
ROUNDING = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 1e-2}


@dataclass(frozen=True)
class Schedule:
    """Polynomials to apply in turn to a matrix that was divided by ``safety`` times an upper bound of its norm.

    Args:
        coefficients: ``(a, b, c)`` of each step.
        safety: >= 1, keeps rounding from lifting a singular value out of the interval that a step was made for.
    """

    coefficients: Coefficients
    safety: float = 1.0

    def range(self, floor: float) -> tuple[float, float]:
        """Smallest and largest image of the singular values from ``floor`` to 1 times the bound of the norm.

        Example:
            >>> low, high = Schedule((MUON,) * 5).range(1e-2)
            >>> print(f"{low:.4f} {high:.4f}")
            0.6818 1.1344
        """
        return image(self.coefficients, floor / self.safety, 1 / self.safety)

    def slope(self) -> float:
        """The derivative at 0: what rounding noise in null directions is multiplied by."""
        return math.prod(a for a, _, _ in self.coefficients)

    def error(self, floor: float) -> float:
        """Largest ``|p(x) - 1|`` over singular values from ``floor`` to 1 times the bound of the norm."""
        low, high = self.range(floor)
        return max(abs(low - 1), abs(high - 1))


def value(triple: Triple, x: float) -> float:
    """``a x + b x^3 + c x^5``."""
    a, b, c = triple
    square = x * x
    return x * (a + square * (b + square * c))


def extrema(triple: Triple) -> list[float]:
    """Positive roots of ``a + 3 b x^2 + 5 c x^4``, in ascending order."""
    a, b, c = triple
    if c == 0:
        squares = [] if b == 0 else [-a / (3 * b)]
    else:
        discriminant = 9 * b * b - 20 * a * c
        if discriminant < 0:
            return []
        # The form that does not subtract numbers of nearly equal size.
        half = -0.5 * (3 * b + math.copysign(math.sqrt(discriminant), b))
        squares = [half / (5 * c), a / half] if half else [0.0]
    return sorted(math.sqrt(square) for square in squares if square > 0)


def image(coefficients: Coefficients, low: float, high: float) -> tuple[float, float]:
    """Smallest and largest value of the composed polynomials on an interval.

    The image of an interval is an interval, so its ends are followed from step to step.

    Args:
        coefficients: of each step, the first step first.
        low, high: ends of the interval.

    Example:
        >>> image((CUBIC,), 0.0, 1.0)
        (0.0, 1.0)
    """
    for triple in coefficients:
        points = [low, high, *(x for x in _signed(extrema(triple)) if low < x < high)]
        values = [value(triple, x) for x in points]
        low, high = min(values), max(values)
        if not math.isfinite(low + high):
            break
    return low, high


def _signed(points: list[float]) -> list[float]:
    return [*points, *(-x for x in points)]


def check_escape(schedule: Schedule, precision: str = "float32", what: str = "this schedule") -> None:
    """Refuse a schedule under which singular values run away or change their sign.

    The interval that singular values can reach, widened at each step by the rounding of the precision, is followed
    through all steps. Where a polynomial is applied twice in a row or more, its values must stay below its repelling
    fixed point above 1 (``p(x) = x``, slope beyond 1): what passes that grows with each step.

    Args:
        schedule: what to check.
        precision: of the iteration: ``float32``, ``bfloat16`` or ``float64``.
        what: the schedule's name in the message.

    Raises:
        UsageError: with the value that is reached and the one that it must stay below.

    Example:
        >>> check_escape(Schedule((ROOT[2048, 2048],) * 5))
        Traceback (most recent call last):
            ...
        orthostream.errors.UsageError: this schedule lets singular values escape: ...
    """
    margin = 1 + ROUNDING[precision]
    low, high = 0.0, 1 / schedule.safety
    for step, triple in enumerate(schedule.coefficients, 1):
        if not all(map(math.isfinite, triple)):
            raise UsageError(f"step {step} of {what} has coefficients {triple}; finite numbers are needed")
        low, high = image((triple,), low * margin, high * margin)
        if low < 0:
            raise UsageError(
                f"{what} turns singular values negative: after step {step} they reach {low:.4g} in {precision}; "
                "choose coefficients that keep (0, 1] positive"
            )
        following = schedule.coefficients[step : step + 1]
        limit = fixed_point(triple) if following == (triple,) else 2.0
        if high > limit and (following == (triple,) or not following):
            raise UsageError(
                f"{what} lets singular values escape: after step {step} they reach {high:.6g} in {precision}, and "
                f"must stay below {limit:.6g}; use gentler coefficients, a higher precision or another method"
            )


def fixed_point(triple: Triple) -> float:
    """The repelling fixed point above 1, from which repeated application leads away; infinite where there is none."""
    a, b, c = triple
    # p(x) = x for x > 0:  c y^2 + b y + (a - 1) = 0 with y = x^2.
    if c == 0:
        squares = [] if b == 0 else [(1 - a) / b]
    else:
        discriminant = b * b - 4 * c * (a - 1)
        squares = [] if discriminant < 0 else [(-b + sign * math.sqrt(discriminant)) / (2 * c) for sign in (-1, 1)]
    points = [math.sqrt(y) for y in squares if y > 1 and a + 3 * b * y + 5 * c * y * y > 1]
    return min(points, default=math.inf)


# The exchange below settles within ten rounds, or turns among neighbouring floating-point numbers.
MOST_EXCHANGES = 100


def minimax(low: float, high: float) -> tuple[Triple, float]:
    """The odd quintic that is nearest to 1 on an interval, and its largest distance from 1.

    The error takes its largest value four times with alternating sign. Starting from a guess of the two inner points,
    a 4 x 4 system gives coefficients and error, and the extrema of the polynomial the next points (Remez).

    Args:
        low, high: ends of the interval, ``0 < low < high``.

    Reference:
        Amsel et al., The Polar Express, arXiv:2505.16932, section 3.
    """
    points = [low, low + (high - low) / 4, low + 3 * (high - low) / 4, high]
    before = math.inf
    triple = QUINTIC
    for _ in range(MOST_EXCHANGES):
        a, b, c, error = solve([[x, x**3, x**5, (-1.0) ** i] for i, x in enumerate(points)], [1.0] * 4)
        triple = (a, b, c)
        if abs(before - error) <= 1e-15:
            break
        before = error
        points = [low, *extrema(triple), high]
    return triple, abs(error)


def solve(rows: list[list[float]], right: list[float]) -> list[float]:
    """A small linear system by elimination with row pivots."""
    size = len(right)
    system = [[*row, r] for row, r in zip(rows, right, strict=True)]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(system[k][i]))
        system[i], system[pivot] = system[pivot], system[i]
        for k in range(i + 1, size):
            share = system[k][i] / system[i][i]
            system[k] = [x - share * y for x, y in zip(system[k], system[i], strict=True)]
    found = [0.0] * size
    for i in reversed(range(size)):
        rest = sum(system[i][k] * found[k] for k in range(i + 1, size))
        found[i] = (system[i][size] - rest) / system[i][i]
    return found


# Below this relative width the system of `minimax` is singular in float64, and the optimum is the quintic with three
# vanishing derivatives of the error at the middle.
NARROW = 5e-6


@cache
def polar_express(steps: int, floor: float = 1e-3, safety: float = 1.01, cushion: float = 0.02) -> Coefficients:
    """The schedule of the Polar Express: at each step the best polynomial for the interval that is left.

    Begin with ``[l, u] = [floor, 1]``. Each step takes the odd quintic nearest to 1 on ``[max(l, cushion u), u]``,
    scaled so that ``p(l)`` and ``p(u)`` lie evenly around 1, and, but for the last step, of ``x / safety`` instead of
    x. Then ``l = p(l)`` and ``u = 2 - l``.

    Args:
        steps: how many.
        floor: smallest singular value in units of the bound of the norm.
        safety: >= 1; leaves room for rounding.
        cushion: lower bound of l / u in the choice of a polynomial: steeper ones amplify rounding.

    Returns:
        ``(a, b, c)`` of each step.

    Example:
        >>> [round(a, 6) for a, b, c in polar_express(10)][:3]
        [8.237312, 4.082442, 3.926348]

    Reference:
        Amsel et al., The Polar Express, arXiv:2505.16932, algorithm 1 and section 3.
    """
    low, high = floor, 1.0
    found = []
    for step in range(1, steps + 1):
        triple = _nearest_to_one(low, high, cushion)
        if step < steps:
            a, b, c = triple
            triple = (a / safety, b / safety**3, c / safety**5)
        found.append(triple)
        low = value(triple, low)
        high = 2 - low
    return tuple(found)


def _nearest_to_one(low: float, high: float, cushion: float) -> Triple:
    if low / high >= 1 - NARROW:
        a, b, c = QUINTIC
        return (a / high, b / high**3, c / high**5)
    raised = max(low, cushion * high)
    triple, _ = minimax(raised, high)
    if raised > low:
        scale = 2 / (value(triple, low) + value(triple, high))
        a, b, c = triple
        triple = (a * scale, b * scale, c * scale)
    return triple


# The list that the authors publish is this long; shorter ones are cut from it.
PUBLISHED_STEPS = 10


def published_polar_express(steps: int) -> Coefficients:
    """The published schedule for ``[1e-3, 1]``: its first steps, then the convergent quintic."""
    listed = polar_express(PUBLISHED_STEPS)
    return listed[:steps] + (QUINTIC,) * (steps - PUBLISHED_STEPS)


def fewest(make: Callable[[int], Schedule], tol: float, floor: float) -> Schedule:
    """The shortest schedule of a family that brings singular values from ``floor`` to 1 within ``tol`` of 1.

    Args:
        make: the schedule of so many steps.
        tol: largest distance from 1.
        floor: smallest singular value in units of the bound of the norm.

    Raises:
        UsageError: where no number of steps reaches it; the message says how near the family comes.

    Example:
        >>> len(fewest(lambda steps: Schedule((CUBIC,) * steps), 1e-3, 1e-2).coefficients)
        14
    """
    errors = []
    for steps in range(1, MOST_STEPS + 1):
        schedule = make(steps)
        errors.append(schedule.error(floor))
        if errors[-1] <= tol:
            return schedule
    raise UsageError(
        f"no number of steps up to {MOST_STEPS} brings singular values from {floor:g} of the norm within {tol:g} of 1; "
        f"the nearest is {min(errors):.2g}. Choose a larger tol or floor, or method='polar_express' or 'svd'"
    )


# Largest first. The least is that of the published schedule.
CUSHIONS = (0.3, 0.2, 0.1, 0.05, 0.02)


@cache
def made_for(tol: float, floor: float, safety: float = 1.01) -> Schedule:
    """The schedule of the fewest steps for an accuracy, and of these the gentlest.

    A steep polynomial leaves singular values that were of one size far apart, and rounding relative to the largest
    then blurs the smallest. So the number of steps is found first, then the largest cushion for which it suffices.

    Args:
        tol: largest distance from 1 in the end.
        floor: smallest singular value, in units of the bound of the norm.
        safety: >= 1.

    Raises:
        UsageError: where no schedule reaches it.

    Example:
        >>> schedule = made_for(2e-3, 1e-3)
        >>> len(schedule.coefficients), schedule.error(1e-3) <= 2e-3
        (6, True)
    """

    def made(steps: int, cushion: float) -> Schedule:
        return Schedule(polar_express(steps, floor / safety, safety, cushion), safety)

    steps = len(fewest(lambda steps: made(steps, CUSHIONS[-1]), tol, floor).coefficients)
    return next(made(steps, cushion) for cushion in CUSHIONS if made(steps, cushion).error(floor) <= tol)
