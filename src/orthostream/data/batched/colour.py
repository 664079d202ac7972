"""Colours of many images at once, each with a factor of its own.

The arithmetic is that of ``torchvision.transforms.v2.functional`` on tensors: uint8 is computed in float32 and cut off,
not rounded; floating images lie in [0, 1]. Grey is ``0.2989 r + 0.587 g + 0.114 b``, whole levels for uint8.

Images are ``[batch, channels, height, width]`` of 1 or 3 channels everywhere, and factors are ``[batch]``.
"""

import math

import torch
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)
# torchvision turns [0, 1] into levels by this factor, so that 1 just stays 255.
TO_LEVELS = 255.999


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """``f x``, cut to the range of values; at least 0 and 1 for no change."""
    return _levels(images.float() * _each(factors, images), images.dtype)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """``f x + (1 - f) m``, m the mean of the grey image."""
    values = images.float()
    # Sums of whole levels are exact in float64, in whatever order they are taken.
    mean = _grey(values, images.dtype).mean((1, 2, 3), keepdim=True, dtype=torch.float64).float()
    return _blend(values, mean, factors, images.dtype)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """``f x + (1 - f) grey(x)``; images of one channel stay as they are."""
    if images.shape[1] == 1:
        return images
    values = images.float()
    return _blend(values, _grey(values, images.dtype), factors, images.dtype)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """``f x + (1 - f) blur(x)``, without the outermost pixels.

    The blur weighs a pixel by 5/13 and its eight neighbours by 1/13; images of 2 pixels or fewer a side stay as
    they are.
    """
    height, width = images.shape[-2:]
    if height <= 2 or width <= 2:
        return images
    is_whole = images.dtype == torch.uint8
    # The sums of uint8 stay below 13 * 255 and are exact.
    values = images.to(torch.int16) if is_whole else images
    rows = values[..., :-2] + values[..., 1:-1]
    rows += values[..., 2:]
    total = rows[..., :-2, :] + rows[..., 1:-1, :]
    total += rows[..., 2:, :]
    inner = values[..., 1:-1, 1:-1]
    total.add_(inner, alpha=4)
    blurred = total.float().div_(13)
    if is_whole:
        blurred.round_()
    inner = inner.float()
    moved = torch.addcmul(inner, blurred.sub_(inner), _each(1 - factors, images))
    result = images.clone()
    result[..., 1:-1, 1:-1] = _levels(moved, images.dtype)
    return result


def hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Turn the colour circle; images of one channel stay as they are.

    With M the largest and C the range of the three values of a pixel, and h its hue in [0, 1), the channels become
    ``M - C clamp(2 - d, 0, 1)``, d six times the distance of ``h + shift + n / 6`` from a whole number,
    n = 3, 1, -1 for red, green and blue. This is the way to HSV and back in one formula.

    Args:
        images: uint8, or floating in [0, 1].
        shifts: parts of the circle, -0.5 to 0.5.
    """
    if images.shape[1] == 1:
        return images
    values = images.float()
    red, green, blue = values.unbind(1)
    # A reduction over an axis of three would not be vectorised.
    most = torch.maximum(torch.maximum(red, green), blue)
    spread = most - torch.minimum(torch.minimum(red, green), blue)
    # Sixths of the circle from red, from green or from blue, whichever is the largest.
    sixths = torch.where(
        most == red,
        green - blue,
        torch.where(most == green, (blue - red).add_(spread, alpha=2), (red - green).add_(spread, alpha=4)),
    )
    # Where the range is 0 there is no hue, and what is divided is 0 or multiplied by 0.
    circle = sixths.div_(spread.clamp(min=torch.finfo(torch.float32).tiny)).div_(6)
    circle += _each(shifts, images)[:, 0]
    offsets = torch.tensor([3.0, 1.0, -1.0], device=images.device).div_(6).view(1, 3, 1, 1)
    turned = circle[:, None] + offsets
    away = turned.sub_(turned.round()).abs_()
    weight = away.mul_(-6).add_(2).clamp_(0, 1)
    result = torch.addcmul(most[:, None], weight, spread[:, None], value=-1)
    if images.dtype != torch.uint8:
        return result.to(images.dtype)
    return result.mul_(TO_LEVELS / 255).to(torch.uint8)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Invert the values that reach a threshold.

    Args:
        images: uint8, or floating in [0, 1].
        threshold: of all images, in the units of their values.
    """
    if images.dtype != torch.uint8:
        return torch.where(images >= threshold, 1 - images, images)
    # 255 - x is x with all bits turned. A whole threshold keeps the comparison within uint8; torchvision compares in
    # float32.
    level = math.ceil(torch.tensor(threshold, dtype=torch.float32).item())
    turned = images.ge(level).to(torch.uint8).neg_()
    return turned.bitwise_xor_(images)


def equalize(images: Tensor) -> Tensor:
    """Spread the levels of each channel evenly, as Pillow does.

    With c(v) the number of pixels below level v, n the number of those below the highest level in use, and
    s = n // 255: ``v -> min((c(v) + s // 2) // s, 255)``; a channel with s = 0 stays as it is.

    Args:
        images: uint8, or floating in [0, 1]; at most 2**24 pixels, which float32 counts exactly.
    """
    if images.dtype != torch.uint8:
        return equalize(images.mul(TO_LEVELS).to(torch.uint8)).to(images.dtype).mul_(1 / 255)
    levels = images.flatten(2).long()
    pixels = levels.shape[-1]
    counts = torch.zeros(*levels.shape[:2], 256, device=images.device)
    counts.scatter_add_(2, levels, counts.new_ones(1).expand_as(levels))
    upto = counts.cumsum(2)
    step = torch.where(upto < pixels, upto, 0).amax(2, keepdim=True).div_(255).floor_()
    # Quotients of whole numbers below 2**24, rounded, never reach the next whole one: their floors are exact. What
    # divides whole numbers is several times slower.
    table = (upto - counts).add_((step / 2).floor_()).div_(step.clamp(min=1)).floor_().clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256.0, device=images.device)).to(torch.uint8)
    return table.gather(2, levels).view(images.shape)


def _grey(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``[batch, 1, height, width]``."""
    if values.shape[1] == 1:
        return values
    red, green, blue = values[:, :1], values[:, 1:2], values[:, 2:]
    grey = red.mul(GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])
    return grey.floor_() if dtype == torch.uint8 else grey


def _blend(values: Tensor, others: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:
    factor, rest = _each(factors, values), _each(1 - factors, values)
    return _levels(values.mul(factor).addcmul_(others, rest), dtype)


def _levels(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Cut to the range of values, and off to whole levels for uint8."""
    return values.clamp_(0, 255 if dtype == torch.uint8 else 1).to(dtype)


def _each(numbers: Tensor, images: Tensor) -> Tensor:
    """One number an image, as float32 on its device."""
    return numbers.to(images.device, torch.float32, non_blocking=True).view(-1, 1, 1, 1)
