"""Facts about a data set that models and transforms need."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from orthostream.errors import UsageError

# The rows of the table of transforms: which crops, colours and evaluation a data set gets.
Family: TypeAlias = Literal["digits", "mnist", "cifar", "tiny_imagenet", "imagenet"]

LARGEST_PATCH = 16


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the images of a data set are.

    Args:
        name: of the data set, as in the table.
        family: row of the table of transforms.
        classes: names of the classes; a label is an index into them.
        channels: 1 for grey images, 3 for RGB.
        image_size: pixels a side after the transforms.
        patch_size: pixels a side of a patch, where a ViT is not told otherwise.
        mean: of each channel, for pixel values in [0, 1].
        std: likewise.
        eval_split: the split that evaluations use.
    """

    name: str
    family: Family
    classes: tuple[str, ...]
    channels: int
    image_size: int
    patch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    eval_split: str

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)


def checked_size(image_size: int | None, default: int) -> int:
    """The image size that was asked for, or the default.

    Raises:
        UsageError: for a size below 1.
    """
    if image_size is not None and image_size < 1:
        raise UsageError(f"data.image_size is {image_size}; it is pixels a side, at least 1 (default {default})")
    return default if image_size is None else image_size


def default_patch(image_size: int, tokens_a_side: int = 8) -> int:
    """Pixels a side of a patch: the largest power of two up to 16 that divides the image and leaves enough tokens.

    This gives the patches of the papers: 4 at 32 pixels, 8 at 64, 16 at 224.

    Args:
        image_size: pixels a side.
        tokens_a_side: at least so many tokens a side, where the image allows it.
    """
    patch = LARGEST_PATCH
    while patch > 1 and (image_size % patch or image_size // patch < tokens_a_side):
        patch //= 2
    return patch
