"""From an image to the tensor that a model gets: a table of steps for each family of data sets.

The families and the order of their steps are those of the authors' program (arXiv:2505.11881); ``digits`` is
ours. Steps draw from torch's global generator alone, so that seeding it fixes them.

Differs: the authors' program uses the first version of torchvision's transforms. RandAugment of the second
draws other numbers from the same seed, with the same distribution.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from orthostream.data.description import Description, Family
from orthostream.data.two_views import two_views
from orthostream.errors import UsageError, needs_extra, unknown

with needs_extra("vision"):
    from PIL import Image
    from torchvision.transforms import InterpolationMode, v2

Transform: TypeAlias = Callable[[Image.Image], Tensor]
# Who the images are for: "cnn" are the post-activation networks, "twins" makes pairs of views, "none" trains on what
# evaluation sees.
Pipeline: TypeAlias = Literal["vit", "resnet", "cnn", "twins", "none"]
PIPELINES: tuple[Pipeline, ...] = ("vit", "resnet", "cnn", "twins", "none")

# Sides of the images as they are stored, and how far a crop may move at that size.
SMALL = {"cifar": (32, 4), "digits": (8, 1)}
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
CROP_RATIO = (0.75, 1.33)
# torchvision's default, written to the last digit as there.
USUAL_RATIO = (3 / 4, 4 / 3)
USUAL_AREA = (0.08, 1.0)
LARGEST_MAGNITUDE = 30
# The shorter side before the centre crop of "cnn" and "twins", in units of the crop.
MARGIN = 256 / 224
# Beyond this, evaluation cuts the ends off before it resizes; the centre it keeps is the same.
LONGEST_ASPECT = 16


def train_transform(
    description: Description,
    pipeline: Pipeline,
    *,
    randaugment_n: int = 0,
    randaugment_m: int = 0,
    random_erase: float = 0.0,
) -> Transform:
    """The transform of training images.

    ========================  ==========================================================  ====================
    family                    vit                                                         resnet
    ========================  ==========================================================  ====================
    cifar                     crop, flip, RandAugment, colour, erase                      crop, flip
    tiny_imagenet             resized crop, flip, RandAugment, colour, erase              resized crop, flip
    imagenet (and folders)    resized crop, flip, colour, RandAugment, erase              resized crop, flip
    digits                    crop, RandAugment, erase                                    crop
    mnist                     resize                                                      resize
    ========================  ==========================================================  ====================

    ``cnn`` has the steps of ``resnet`` with other numbers, those in common use (arXiv:1512.03385, section 4.2;
    arXiv:1409.4842, section 6): crops of small images pad by black, and resized crops keep 8 to 100 % of the area.

    Erasing follows the conversion to a tensor; normalisation is last everywhere. Crops of cifar pad by 4 pixels
    of reflection, of digits by 1 of black; digits are not flipped, since a mirrored 2 is none, and not coloured.
    Resized crops keep 80 to 100 % of the area (70 to 100 % for resnet). An image size other than the stored one
    resizes first and scales the padding.

    Args:
        description: of the data set.
        pipeline: ``vit``, ``resnet``, ``cnn``, ``twins`` (:func:`orthostream.data.two_views.two_views`) or ``none``
            for the evaluation transform.
        randaugment_n: operations of RandAugment; 0 for none.
        randaugment_m: their magnitude, 0 to 30.
        random_erase: probability of erasing a rectangle with normal noise.

    Returns:
        A function of a PIL image to float32 ``[channels, image_size, image_size]``; of ``twins`` to two of these.

    Raises:
        UsageError: for values out of range, or RandAugment or erasing in a pipeline that has neither.
    """
    _check(description.family, pipeline, randaugment_n, randaugment_m, random_erase)
    if pipeline == "none":
        return evaluation_transform(description, pipeline)
    if pipeline == "twins":
        return two_views(description.image_size, [*_tensor(), *_normalise(description)])
    randaugment = [v2.RandAugment(randaugment_n, randaugment_m)] if randaugment_n else []
    erase = [v2.RandomErasing(random_erase, ERASED_AREA, ERASED_RATIO, value="random")] if random_erase else []
    colour = [v2.ColorJitter(0.4, 0.4, 0.4, 0.1)] if pipeline == "vit" else []
    # Only ImageNet has the colours before RandAugment.
    changes = {
        "digits": randaugment,
        "mnist": [],
        "cifar": randaugment + colour,
        "tiny_imagenet": randaugment + colour,
        "imagenet": colour + randaugment,
    }[description.family]
    return v2.Compose([*_crops(description, pipeline), *changes, *_tensor(), *erase, *_normalise(description)])


def evaluation_transform(description: Description, pipeline: Pipeline) -> Transform:
    """The transform of evaluation images: no chance in it.

    Tiny ImageNet and ImageNet resize the shorter side to the image size (ImageNet: bicubic for ``vit``,
    bilinear for the others; to 256 / 224 of it for ``cnn`` and ``twins``) and keep the centre; small images stay whole.

    Args:
        description: of the data set.
        pipeline: whom the images are for.

    Returns:
        A function of a PIL image to float32 ``[channels, image_size, image_size]``.

    Raises:
        UsageError: for an unknown pipeline.
    """
    _known(pipeline)
    size, family = description.image_size, description.family
    if family in ("tiny_imagenet", "imagenet"):
        is_bicubic = family == "imagenet" and pipeline == "vit"
        how = InterpolationMode.BICUBIC if is_bicubic else InterpolationMode.BILINEAR
        shorter = round(MARGIN * size) if pipeline in ("cnn", "twins") else size
        whole: list[Any] = [_shorten, v2.Resize(shorter, how), v2.CenterCrop(size)]
    else:
        whole = _resize(family, size)
    return v2.Compose([*whole, *_tensor(), *_normalise(description)])


def _check(family: Family, pipeline: Pipeline, randaugment_n: int, randaugment_m: int, random_erase: float) -> None:
    _known(pipeline)
    if randaugment_n < 0 or not 0 <= randaugment_m <= LARGEST_MAGNITUDE:
        raise UsageError(
            f"augment.randaugment_n={randaugment_n}, augment.randaugment_m={randaugment_m}: expected at least 0 "
            f"operations of magnitude 0 to {LARGEST_MAGNITUDE}"
        )
    if not 0 <= random_erase <= 1:
        raise UsageError(f"augment.random_erase={random_erase} is a probability; expected 0 to 1")
    # A value that changes nothing is an error: a reader of the recipe would believe in it.
    if (pipeline != "vit" or family == "mnist") and (randaugment_n or random_erase):
        raise UsageError(
            f"augment.randaugment_n={randaugment_n} and augment.random_erase={random_erase} have no effect in the "
            f"{pipeline} pipeline of {family}; set both to 0, or choose augment.pipeline=vit"
        )


def _known(pipeline: Pipeline) -> None:
    if pipeline not in PIPELINES:
        raise UsageError(unknown("augment.pipeline", pipeline, PIPELINES))


def _crops(description: Description, pipeline: Pipeline) -> list[Any]:
    """The geometry of training."""
    size, family = description.image_size, description.family
    if family in SMALL:
        stored, moved = SMALL[family]
        padding = max(1, round(moved * size / stored))
        mode = "reflect" if family == "cifar" and pipeline != "cnn" else "constant"
        crop = v2.RandomCrop(size, padding=padding, padding_mode=mode)
        return [*_resize(family, size), crop, *([v2.RandomHorizontalFlip()] if family == "cifar" else [])]
    if family == "mnist":
        return _resize(family, size)
    if pipeline == "cnn":
        return [v2.RandomResizedCrop(size, USUAL_AREA, USUAL_RATIO), v2.RandomHorizontalFlip()]
    ratio = USUAL_RATIO if (family, pipeline) == ("imagenet", "resnet") else CROP_RATIO
    area = (0.8, 1.0) if pipeline == "vit" else (0.7, 1.0)
    return [v2.RandomResizedCrop(size, area, ratio), v2.RandomHorizontalFlip()]


def _resize(family: Family, size: int) -> list[Any]:
    """To the image size, where the stored images have another."""
    return [] if family in SMALL and SMALL[family][0] == size else [v2.Resize((size, size))]


def _tensor() -> list[Any]:
    """Values in [0, 1]."""
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]


def _normalise(description: Description) -> list[Any]:
    """Zero mean and unit variance a channel."""
    return [v2.Normalize(description.mean, description.std)]


def _shorten(image: Image.Image) -> Image.Image:
    """Cut the ends off an extremely long image, whose resized copy would take gigabytes."""
    longest = LONGEST_ASPECT * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = (min(side, longest) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
