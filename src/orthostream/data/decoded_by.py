"""How the files of a data set are decoded."""

from orthostream.data.decode import USUAL, Decoding
from orthostream.data.images import ImageFileSet, ImageSet
from orthostream.data.parquet import ParquetSet
from orthostream.data.shards import NoTraining, ShardSet
from orthostream.data.splits import Splits
from orthostream.errors import UsageError


def decoded_by(splits: Splits, how: Decoding) -> Splits:
    """The splits, their files decoded in another way.

    Args:
        splits: of the data set, as it was opened.
        how: rotation and the largest size.

    Raises:
        UsageError: where the images lie in memory, decoded, so that it would have no effect.

    Example:
        >>> from orthostream import data
        >>> decoded_by(data.load("digits"), Decoding()).description.name
        'digits'
    """
    if how == USUAL:
        return splits
    for images in (splits.train, splits.evaluation):
        _set(images, how, splits.description.name)
    return splits


def _set(images: ImageSet, how: Decoding, name: str) -> None:
    if isinstance(images, ImageFileSet | ShardSet | ParquetSet):
        images.decoding = how
    elif not isinstance(images, NoTraining):
        raise UsageError(
            f"data.apply_rotation and data.most_pixels have no effect on {name}, which is decoded when it is opened; "
            "leave them out"
        )
