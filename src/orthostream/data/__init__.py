"""Data sets: one file a set, and this table of all of them.

A row is a function of ``source`` and ``image_size`` that returns :class:`Splits`; that of a text takes ``source`` and
``context`` and returns :class:`TextSplits`.
"""

from collections.abc import Sequence
from typing import cast

from orthostream.data.cifar import cifar10, cifar100
from orthostream.data.description import Description
from orthostream.data.digits import digits
from orthostream.data.errors import DataError
from orthostream.data.folder import folder
from orthostream.data.images import ImageSet
from orthostream.data.shards import shards
from orthostream.data.splits import Splits
from orthostream.data.text import TextDescription, TextSplits, text
from orthostream.registry import Entry, Registry

__all__ = [
    "DataError",
    "Description",
    "ImageSet",
    "Splits",
    "TextDescription",
    "TextSplits",
    "is_text",
    "load",
    "load_text",
    "names",
    "register",
    "table",
]

table: Registry[Splits | TextSplits] = Registry(
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
        "shards": Entry(
            shards,
            "for evaluation: images with labels in tar (webdataset) or parquet files, a folder of them, or hub id",
        ),
        "text": Entry(text, "a text by characters, from a UTF-8 file: nine tenths to train on, the last to evaluate"),
    },
)

names = table.names
register = table.register


def load(name: str, source: str | None = None, image_size: int | None = None) -> Splits:
    """Open a data set of images.

    Args:
        name: one of :func:`names`.
        source: where its files are: a folder, or a hub id; None is the set's default.
        image_size: pixels a side after the transforms; None is the set's own size.

    Returns:
        Both splits, their description, and notes on what was left out.

    Raises:
        UsageError: for an unknown name.
        DataError: where the data is missing, not what it should be, or holds no images; before anything else is built.

    Example:
        >>> splits = load("digits")
        >>> len(splits.train), len(splits.evaluation), splits.description.num_classes
        (1437, 360, 10)
    """
    if is_text(name):
        raise DataError(f"data set {name!r} holds characters, and images are needed; {_named(is_text=False)}")
    return cast(Splits, table.create(name, source=source, image_size=image_size))


def load_text(
    name: str = "text",
    source: str | None = None,
    context: int | None = None,
    vocabulary: Sequence[str] | None = None,
) -> TextSplits:
    """Open a text.

    Args:
        name: one of :func:`names`.
        source: where its file is.
        context: characters of a window; None is the set's own length.
        vocabulary: characters by token, where a model knows them already; None is those of the text.

    Returns:
        Both parts as tokens, their description, and notes.

    Raises:
        UsageError: for an unknown name.
        DataError: where the text is missing or not what it should be, or the data set holds images.

    Example:
        >>> load_text(source="input.txt").description.num_classes  # doctest: +SKIP
        65
    """
    if not is_text(name):
        raise DataError(f"data set {name!r} holds images, and characters are needed; {_named(is_text=True)}")
    given = {"source": source, "context": context} | ({} if vocabulary is None else {"vocabulary": vocabulary})
    return cast(TextSplits, table.create(name, **given))


def is_text(name: str) -> bool:
    """Whether a data set holds characters instead of images, as its options say.

    Raises:
        UsageError: for an unknown name.

    Example:
        >>> is_text("text"), is_text("digits")
        (True, False)
    """
    return "context" in table.options(name)


def _named(*, is_text: bool) -> str:
    """Advice with the names of all sets of one kind."""
    return f"choose one of {', '.join(each for each in table.names() if ('context' in table.options(each)) == is_text)}"
