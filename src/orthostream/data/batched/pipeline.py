"""A transform of single images, done on whole batches: the same steps, with each image's own draws.

What a step does is read from the ``torchvision.transforms.v2`` object that does it to single images, so that both
pipelines have one description. Steps without chance that come first are done once, on the stored images.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from orthostream.data import transforms
from orthostream.data.batched import geometry
from orthostream.data.batched.draws import Draws, choose
from orthostream.data.batched.erase import Erase
from orthostream.data.batched.jitter import ColourJitter
from orthostream.data.batched.randaugment import RandAugment
from orthostream.data.transforms import Transform
from orthostream.errors import UsageError, needs_extra

with needs_extra("vision"):
    from torchvision.transforms import InterpolationMode, v2

# Images and their random numbers to images. The result may share memory with what is given.
Step: TypeAlias = Callable[[Tensor, Draws], Tensor]

# Steps that draw nothing, and are done to single images once.
BEFORE = (v2.Resize, v2.CenterCrop, v2.Grayscale, v2.RGB)
# They change the kind of an image, which is a tensor here from the start.
KINDS = (v2.ToImage, v2.ToPureTensor)


class Unsupported(UsageError):
    """A step that has no form for whole batches; the message names it."""


class Batched(NamedTuple):
    """A transform in two parts.

    Args:
        before: steps of single images, done once when the images are stored.
        steps: steps of batches.
    """

    before: tuple[Callable[[Any], Any], ...]
    steps: tuple[Step, ...]

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Transformed images.

        Args:
            images: uint8 ``[batch, channels, height, width]``, stored images; left as they are.
            draws: of these images.

        Returns:
            float32 ``[batch, channels, height, width]``.
        """
        for number, step in enumerate(self.steps):
            images = step(images, draws.at(number))
        return images


def batched(transform: Transform) -> Batched:
    """The batched form of a transform of single images.

    Args:
        transform: a ``v2.Compose`` as :func:`orthostream.data.transforms.train_transform` and
            :func:`~orthostream.data.transforms.evaluation_transform` make.

    Raises:
        Unsupported: for a step that has none.

    Example:
        >>> from orthostream import data
        >>> from orthostream.data.transforms import train_transform
        >>> splits = data.load("digits")
        >>> pipeline = batched(train_transform(splits.description, "vit", randaugment_n=2, randaugment_m=9))
        >>> images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
        >>> pipeline(images, Draws.of(seed=0, epoch=0, samples=torch.arange(5))).dtype
        torch.float32
    """
    if not isinstance(transform, v2.Compose):
        raise Unsupported(_refusal(type(transform).__name__))
    left = [step for step in transform.transforms if not isinstance(step, KINDS)]
    before = []
    while left and _is_before(left[0]):
        before.append(left.pop(0))
    return Batched(tuple(before), tuple(_step(step) for step in left))


def _is_before(step: object) -> bool:
    # The functions among our own steps draw nothing; of others nobody knows.
    return isinstance(step, BEFORE) or (isinstance(step, FunctionType) and step.__module__ == transforms.__name__)


def _step(step: Any) -> Step:
    for kind, make in MAKERS.items():
        # Not a subclass, which may do anything else.
        if type(step) is kind:
            return make(step)
    raise Unsupported(_refusal(repr(step)))


def _refusal(step: str) -> str:
    return f"{step} has no form for whole batches; set data.pipeline=workers"


def _need(is_supported: bool, step: object) -> None:
    if not is_supported:
        raise Unsupported(_refusal(repr(step)))


def _is(given: object, mode: InterpolationMode) -> bool:
    # torchvision takes names too.
    return given in (mode, mode.value)


def _crop(step: Any) -> Step:
    padding = 0 if step.padding is None else step.padding[0]
    is_even = step.padding is None or all(side == padding for side in step.padding)
    _need(is_even and not step.pad_if_needed and step.fill == 0, step)
    _need(step.padding_mode in ("constant", "reflect"), step)
    size: tuple[int, int] = tuple(step.size)

    def crop(images: Tensor, draws: Draws) -> Tensor:
        height, width = (side + 2 * padding for side in images.shape[-2:])
        if height < size[0] or width < size[1]:
            raise UsageError(f"a crop of {size} pixels does not fit into padded images of {(height, width)}")
        first, second = draws.uniform(2).T
        top, left = choose(first, height - size[0] + 1), choose(second, width - size[1] + 1)
        return geometry.crop(images, top, left, size, padding, step.padding_mode)

    return crop


def _resized_crop(step: Any) -> Step:
    _need(_is(step.interpolation, InterpolationMode.BILINEAR) and step.antialias is True, step)
    size: tuple[int, int] = tuple(step.size)

    def resized_crop(images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        uniform = draws.uniform(2 * geometry.TRIES + 2)
        boxes = geometry.draw_resized_crops(uniform, height, width, step.scale, step.ratio)
        return geometry.resized_crop(images, boxes, size)

    return resized_crop


def _flip(step: Any) -> Step:
    return lambda images, draws: geometry.flip(images, draws.uniform(1)[:, 0] < step.p)


def _randaugment(step: Any) -> Step:
    _need(_is(step.interpolation, InterpolationMode.NEAREST) and step.fill is None, step)
    augment = RandAugment(step.num_ops, step.magnitude, step.num_magnitude_bins)
    return lambda images, draws: augment(images, draws.uniform(augment.count))


def _jitter(step: Any) -> Step:
    jitter = ColourJitter(step.brightness, step.contrast, step.saturation, step.hue)
    return lambda images, draws: jitter(images, draws.uniform(jitter.count))


def _erase(step: Any) -> Step:
    _need(step.value is None, step)
    return Erase(step.p, tuple(step.scale), tuple(step.ratio))


def _scale(step: Any) -> Step:
    _need(step.dtype == torch.float32 and step.scale, step)
    # A product as in torchvision; a quotient would round otherwise.
    return lambda images, _: images.float().mul_(1 / 255) if images.dtype == torch.uint8 else images.float()


def _normalise(step: Any) -> Step:
    mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (step.mean, step.std))

    def normalise(images: Tensor, draws: Draws) -> Tensor:
        return images.sub(mean.to(images.device, non_blocking=True)).div_(std.to(images.device, non_blocking=True))

    return normalise


MAKERS: dict[type, Callable[[Any], Step]] = {
    v2.RandomCrop: _crop,
    v2.RandomResizedCrop: _resized_crop,
    v2.RandomHorizontalFlip: _flip,
    v2.RandAugment: _randaugment,
    v2.ColorJitter: _jitter,
    v2.RandomErasing: _erase,
    v2.ToDtype: _scale,
    v2.Normalize: _normalise,
}
