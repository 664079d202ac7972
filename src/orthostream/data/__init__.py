"""Data sets: one file a set, and this table of all of them.

A row is a function of ``source`` and ``image_size`` that returns :class:`Splits`.
"""

from orthostream.data.cifar import cifar10, cifar100
from orthostream.data.description import Description
from orthostream.data.digits import digits
from orthostream.data.errors import DataError
from orthostream.data.folder import folder
from orthostream.data.images import ImageSet
from orthostream.data.shards import shards
from orthostream.data.splits import Splits
from orthostream.registry import Entry, Registry

__all__ = ["DataError", "Description", "ImageSet", "Splits", "load", "names", "register", "table"]

table: Registry[Splits] = Registry(
    "data set",
    {
        "digits": Entry(digits, "8x8 grey digits, 1,437 + 360, ships with scikit-learn", "UCI, 1998"),
        "cifar10": Entry(
            cifar10, "32x32 RGB, 10 classes, 50,000 + 10,000: parquet, hub or archive", "Krizhevsky, 2009"
        ),
        "cifar100": Entry(
            cifar100, "32x32 RGB, 100 fine classes, 50,000 + 10,000: parquet, hub or archive", "Krizhevsky, 2009"
        ),
        "folder": Entry(folder, "your images: source/train/<class>/<image> and source/val/<class>/<image>"),
        "shards": Entry(shards, "webdataset shards, for evaluation: images with .cls or .json in tar files, or hub id"),
    },
)

names = table.names
register = table.register


def load(name: str, source: str | None = None, image_size: int | None = None) -> Splits:
    """Open a data set.

    Args:
        name: one of :func:`names`.
        source: where its files are: a folder, or a hub id; None is the set's default.
        image_size: pixels a side after the transforms; None is the set's own size.

    Returns:
        Both splits, their description, and notes on what was left out.

    Raises:
        UsageError: for an unknown name.
        DataError: where the data is missing or not what it should be; before anything else is built.

    Example:
        >>> splits = load("digits")
        >>> len(splits.train), len(splits.evaluation), splits.description.num_classes
        (1437, 360, 10)
    """
    return table.create(name, source=source, image_size=image_size)
