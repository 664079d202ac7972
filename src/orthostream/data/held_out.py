"""Training images kept back for validation, and the statistics that images are normalised by."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from orthostream.data.errors import DataError
from orthostream.data.images import ImageSet
from orthostream.data.keys import key
from orthostream.data.splits import Splits
from orthostream.errors import UsageError, needs_extra

with needs_extra("vision"):
    from PIL import Image

# Which split evaluations use: the set's own, or the training images that were kept back.
EvaluateOn: TypeAlias = Literal["official", "held_out"]
# Fixed for good, and not the seed of the run: all runs keep back the same images.
SPLIT_SEED = 0


class ImageSubset:
    """Some images of a set, in the order given.

    Args:
        images: the set.
        indices: of the images that stay.
    """

    def __init__(self, images: ImageSet, indices: Sequence[int]) -> None:
        self.images, self.indices = images, indices

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        return self.images.image(self.indices[index])

    def label(self, index: int) -> int:
        return self.images.label(self.indices[index])

    def where(self, index: int) -> str:
        return self.images.where(self.indices[index])


def hold_out(splits: Splits, count: int, evaluate_on: EvaluateOn = "official") -> Splits:
    """Keep back training images that no step sees.

    The images are those with the smallest hash of their index: the same ones in every run, on every machine.

    Args:
        splits: of the data set.
        count: how many to keep back; 0 leaves the splits as they are.
        evaluate_on: the set's own evaluation split, or the images kept back, under the evaluation transform.

    Returns:
        The splits, with a note of what was kept back.

    Raises:
        DataError: where no image would be left to train on.
        UsageError: for an evaluation on images kept back where there are none.

    Example:
        >>> from orthostream import data
        >>> kept = hold_out(data.load("digits"), 437, "held_out")
        >>> len(kept.train), len(kept.evaluation)
        (1000, 437)
    """
    if evaluate_on == "held_out" and count == 0:
        raise UsageError("data.evaluate_on is held_out and data.held_out is 0; say how many images are kept back")
    if count == 0:
        return splits
    total = len(splits.train)
    if count >= total:
        raise DataError(f"data.held_out={count} leaves none of the {total} training images to train on")
    order = sorted(range(total), key=lambda index: key(SPLIT_SEED, "split", index))
    back, kept = sorted(order[:count]), sorted(order[count:])
    note = f"{count:,} of {total:,} training images are held out by a fixed hash of their index"
    if evaluate_on == "official":
        return replace(splits, train=ImageSubset(splits.train, kept), notes=(*splits.notes, note))
    return replace(
        splits,
        train=ImageSubset(splits.train, kept),
        evaluation=ImageSubset(splits.train, back),
        description=replace(splits.description, eval_split="held out of training"),
        notes=(*splits.notes, f"{note}; evaluations use these"),
    )


def normalised_by(splits: Splits, mean: Sequence[float] | None, std: Sequence[float] | None) -> Splits:
    """The splits with other statistics in their description.

    Args:
        splits: of the data set.
        mean: of each channel for pixel values in [0, 1]; None leaves the set's own.
        std: likewise.

    Raises:
        UsageError: where there is not one number a channel, or a deviation is not positive.
    """
    description = splits.description
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != description.channels:
            raise UsageError(
                f"data.{name} has {len(values)} numbers, and {description.name} has {description.channels} channels; "
                "give one number a channel, or null for the set's own"
            )
    if std is not None and min(std) <= 0:
        raise UsageError(f"data.std={list(std)}: images are divided by it, so that each number must be above 0")
    changed = replace(
        description,
        mean=description.mean if mean is None else tuple(mean),
        std=description.std if std is None else tuple(std),
    )
    return replace(splits, description=changed)
