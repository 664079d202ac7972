"""Refusals of model options, each with the value that was given and what would be allowed."""

import math
from typing import Any

from orthostream.errors import UsageError


def check_counts(*, at_least: int = 1, **values: Any) -> None:
    """Refuse what is no whole number, or a smaller one than ``at_least``.

    Raises:
        UsageError: naming the option and its value.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise UsageError(f"{name} must be a whole number, {at_least} or more, got {value!r}")


def check_fractions(**values: Any) -> None:
    """Refuse what is no number in ``[0, 1)``: at a rate of 1 nothing would be left to rescale.

    Raises:
        UsageError: naming the option and its value.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise UsageError(f"{name} must be a number from 0 up to but not including 1, got {value!r}")


def check_sizes(**values: Any) -> None:
    """Refuse what is neither ``None`` (off) nor a finite number of 0 or more.

    Raises:
        UsageError: naming the option and its value.
    """
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UsageError(f"{name} must be a finite number, 0 or more, or None to turn it off, got {value!r}")


def check_flags(**values: Any) -> None:
    """Refuse what is not a boolean: a text such as 'false' would count as true.

    Raises:
        UsageError: naming the option and its value.
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise UsageError(f"{name} must be true or false, got {value!r}")
