"""What opening a data set returns."""

from dataclasses import dataclass

from orthostream.data.description import Description
from orthostream.data.images import ImageSet


@dataclass(frozen=True)
class Splits:
    """The two splits of a data set.

    Args:
        train: samples to learn from.
        evaluation: samples to be judged by.
        description: facts about both.
        notes: what a reader of the results should know, one line each: what was left out, and why.
    """

    train: ImageSet
    evaluation: ImageSet
    description: Description
    notes: tuple[str, ...] = ()
