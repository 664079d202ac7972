"""Crops, mirrors and affine maps of many images at once, each with places of its own.

Images are ``[batch, channels, height, width]`` everywhere, uint8 or floating; places are int64 ``[batch]`` on the CPU.
"""

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from orthostream.data.batched.draws import between, choose
from orthostream.errors import needs_extra

with needs_extra("vision"):
    from torchvision.transforms.v2 import functional

PaddingMode: TypeAlias = Literal["constant", "reflect"]
Warp: TypeAlias = Literal["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"]

# How often torchvision tries to draw a rectangle that fits.
TRIES = 10
# Of a weight of a resized crop after the point, at most.
MOST_BITS = 22


class Boxes(NamedTuple):
    """Rectangles, one an image: pixels from the top and left, and their sides."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


class Source(NamedTuple):
    """Where the pixels of an affine map come from.

    Args:
        places: int64 ``[height * width]``, of the source pixel; 0 where there is none.
        is_inside: uint8 ``[height * width]``, 1 where there is one.
    """

    places: Tensor
    is_inside: Tensor


def flip(images: Tensor, is_flipped: Tensor) -> Tensor:
    """Mirror left and right.

    Args:
        images: left as they are.
        is_flipped: bool ``[batch]``, on the CPU.
    """
    rows = torch.nonzero(is_flipped).flatten().to(images.device, non_blocking=True)
    return images.index_copy(0, rows, images.index_select(0, rows).flip(-1))


def crop(
    images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int], padding: int = 0, mode: PaddingMode = "constant"
) -> Tensor:
    """Cut a window out of the padded image.

    Args:
        images: left as they are.
        top, left: of the windows in the padded images, in pixels.
        size: height and width of the windows.
        padding: pixels at each side.
        mode: of the padding: zeros, or reflection without the outermost pixel.
    """
    batch, channels, height, width = images.shape
    device = images.device
    rows = top.to(device, non_blocking=True)[:, None] + torch.arange(size[0], device=device) - padding
    columns = left.to(device, non_blocking=True)[:, None] + torch.arange(size[1], device=device) - padding
    inside = None
    if mode == "reflect":
        rows, columns = _reflected(rows, height), _reflected(columns, width)
    elif padding:
        is_row, is_column = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        inside = (is_row[:, :, None] & is_column[:, None, :]).flatten(1).to(torch.uint8)
        rows, columns = rows.clamp_(0, height - 1), columns.clamp_(0, width - 1)
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    return _gathered(images, places, inside).view(batch, channels, *size)


def draw_resized_crops(
    uniform: Tensor, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
) -> Boxes:
    """The windows of ``RandomResizedCrop``: the first of ten that fits, else the largest one in the centre.

    A window has a share of the area that is uniform in ``area``, and a ratio of width to height whose logarithm is
    uniform.

    Args:
        uniform: float64 ``[batch, 22]`` in [0, 1).
        height, width: of the images, in pixels.
        area: smallest and largest share.
        ratio: smallest and largest ratio.
    """
    areas = between(uniform[:, :TRIES], *area) * (height * width)
    ratios = between(uniform[:, TRIES : 2 * TRIES], math.log(ratio[0]), math.log(ratio[1])).exp_()
    wide, high = (areas * ratios).sqrt_().round_().long(), (areas / ratios).sqrt_().round_().long()
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    has_any, high, wide = first_fit(fits, high, wide)
    whole_high, whole_wide = height, width
    if width / height < min(ratio):
        whole_high = round(width / min(ratio))
    elif width / height > max(ratio):
        whole_wide = round(height * max(ratio))
    high, wide = torch.where(has_any, high, whole_high), torch.where(has_any, wide, whole_wide)
    top = torch.where(has_any, choose(uniform[:, -2], height - high + 1), (height - high) // 2)
    left = torch.where(has_any, choose(uniform[:, -1], width - wide + 1), (width - wide) // 2)
    return Boxes(top, left, high, wide)


def first_fit(fits: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Whether any of the tries of each row fits, and the values of the first that does.

    Args:
        fits: bool ``[batch, tries]``.
        values: ``[batch, tries]`` each.
    """
    first = fits.int().argmax(1, keepdim=True)
    return fits.any(1), *(value.gather(1, first)[:, 0] for value in values)


def resized_crop(images: Tensor, boxes: Boxes, size: tuple[int, int]) -> Tensor:
    """Cut out a window and resize it, bilinear and antialiased.

    Each axis is a product with a matrix of weights: those of a pixel fall off as a triangle that is one pixel wide,
    or as wide as a pixel of the result where that is wider. The columns are done first. For uint8 the weights are whole
    numbers below 2**15 and each axis is rounded, as torchvision and Pillow do: the result is that of torchvision on a
    CPU.

    Args:
        images: left as they are.
        boxes: the windows.
        size: height and width of the result.
    """
    batch, channels, height, width = images.shape
    top, left, high, wide = (each.to(images.device, non_blocking=True) for each in boxes)
    is_whole = images.dtype == torch.uint8
    # Sums of whole numbers have 8 bits more than their weights. Those of windows up to three times as large as the
    # result have 16 at most, so that float32 is exact; float64 always is.
    is_near = height <= 3 * size[0] and width <= 3 * size[1]
    kind = torch.float32 if is_near or not is_whole else torch.float64
    down = _weights(top, high, height, size[0], kind, is_whole)
    across = _weights(left, wide, width, size[1], kind, is_whole)
    # The axis that is summed comes first, and all others are one, for a batch of few large products is much faster.
    columns = images.to(kind).permute(0, 3, 1, 2).reshape(batch, width, -1)
    columns = _product(across, columns, is_whole).view(batch, size[1], channels, height)
    rows = columns.permute(0, 3, 2, 1).reshape(batch, height, -1)
    rows = _product(down, rows, is_whole).view(batch, size[0], channels, size[1])
    return rows.permute(0, 2, 1, 3).to(images.dtype, memory_format=torch.contiguous_format)


def source(warp: Warp, magnitude: float, height: int, width: int) -> Source:
    """An affine map of RandAugment as places of pixels: torchvision itself maps an image of them.

    Shears are tangents and keep the upper left corner, translations are whole pixels, rotations are counter-clockwise
    degrees around the centre. The pixel that is nearest is taken.

    Args:
        warp: which map.
        magnitude: of it.
        height, width: of the images, in pixels.
    """
    # Counted from 1, for what comes from outside is 0. In float32 torchvision computes places as it does for uint8;
    # it counts up to 2**24 pixels.
    numbered = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width)
    places = _warped(numbered, warp, magnitude).flatten().long()
    return Source((places - 1).clamp_(min=0), (places > 0).to(torch.uint8))


def warp(images: Tensor, source: Source) -> Tensor:
    """Move the pixels of all images alike; what comes from outside is 0.

    Args:
        images: left as they are.
        source: on the device of the images.
    """
    return _gathered(images, source.places[None], source.is_inside[None]).view(images.shape)


def _warped(image: Tensor, warp: Warp, magnitude: float) -> Tensor:
    if warp == "Rotate":
        return functional.rotate(image, angle=magnitude)
    is_shear, is_x = warp.startswith("Shear"), warp.endswith("X")
    amount: float = math.degrees(math.atan(magnitude)) if is_shear else int(magnitude)
    moved = [amount, 0.0] if is_x else [0.0, amount]
    still = [0.0, 0.0]
    return functional.affine(
        image,
        angle=0.0,
        translate=still if is_shear else moved,
        scale=1.0,
        shear=moved if is_shear else still,
        center=still if is_shear else None,
    )


def _reflected(places: Tensor, size: int) -> Tensor:
    """Places outside, mirrored at the outermost pixels."""
    return (size - 1) - ((size - 1) - places.abs()).abs()


def _gathered(images: Tensor, places: Tensor, inside: Tensor | None) -> Tensor:
    """``[batch, channels, places]``, zero where it is not inside; places of one image are those of all."""
    flat = images.flatten(2)
    result = flat.gather(2, places[:, None].expand(len(images), images.shape[1], -1))
    return result if inside is None else result.mul_(inside[:, None])


class Weights(NamedTuple):
    """Of an axis: ``[batch, result, size]``, and what products are to be divided by, ``[batch, 1, 1]``."""

    matrix: Tensor
    one: Tensor


def _product(weights: Weights, values: Tensor, is_whole: bool) -> Tensor:
    sums = torch.bmm(weights.matrix, values)
    if not is_whole:
        return sums
    return sums.mul_((1 / weights.one).to(values.dtype)).add_(0.5).floor_().clamp_(0, 255)


def _weights(begin: Tensor, length: Tensor, size: int, result: int, kind: torch.dtype, is_whole: bool) -> Weights:
    """Of each pixel of an axis in each pixel of its window's resized copy.

    Args:
        begin, length: of the windows, in pixels.
        size: of the images.
        result: pixels of the copy.
        kind: of the weights.
        is_whole: whether weights are whole numbers, as large as 16 bits allow.
    """
    scale = (length.double() / result)[:, None, None]
    reach = scale.clamp(min=1)
    centre = (torch.arange(result, device=begin.device, dtype=torch.float64)[:, None] + 0.5) * scale
    # Pixels that may be within reach, counted from the begin of the window: few of all that an image has.
    taps = 2 * math.ceil(max(1, size / result)) + 1
    pixel = (centre - reach + 0.5).floor() + torch.arange(taps, device=begin.device)
    is_inside = (pixel >= 0) & (pixel < length[:, None, None])
    weights = (1 - (pixel + 0.5 - centre).abs_() / reach).clamp_(min=0).mul_(is_inside)
    weights /= weights.sum(-1, keepdim=True)
    one = torch.ones_like(scale)
    if is_whole:
        exponents = torch.arange(1, MOST_BITS + 1, dtype=torch.float64, device=begin.device)
        largest = weights.flatten(1).amax(1)[:, None, None]
        one = 2.0 ** (torch.floor(0.5 + largest * 2**exponents) < 2**15).sum(-1, keepdim=True)
        weights = weights.mul_(one).add_(0.5).floor_()
    places = (pixel.long() + begin[:, None, None]).clamp_(0, size - 1)
    matrix = weights.new_zeros(len(begin), result, size, dtype=kind)
    return Weights(matrix.scatter_add_(2, places, weights.to(matrix.dtype)), one)
