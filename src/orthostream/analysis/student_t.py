"""Means, spreads and intervals of a handful of values."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

# 97.5 % points of Student's t with 1 to 29 degrees of freedom; checked against an independent source in the tests.
T_975 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452,
)  # fmt: skip


def mean(values: Sequence[float]) -> float | None:
    """The mean; None where there is no value."""
    return fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample (n - 1 in the denominator); None below two values."""
    return stdev(values) if len(values) > 1 else None


def interval95(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean, ``mean +- t sd / sqrt(n)`` with t of n - 1 degrees of freedom.

    It supposes values that scatter normally around their mean; None below two values and above thirty.
    """
    freedom = len(values) - 1
    if not 1 <= freedom <= len(T_975):
        return None
    half = T_975[freedom - 1] * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half
