"""A PNG that shows what a model gets to see."""

import math
from pathlib import Path

import torch
from torch import Tensor

from orthostream.data.description import Description
from orthostream.errors import UsageError, needs_extra

with needs_extra("vision"):
    from PIL import Image, ImageDraw

# Pixels: the least side of a tile, the space between tiles, the height of a caption.
LEAST_SIDE, SPACE, CAPTION = 64, 4, 14
BACKGROUND, INK = (255, 255, 255), (0, 0, 0)
LONGEST_CAPTION = 12


def write_contact_sheet(
    path: Path, images: Tensor, description: Description, labels: Tensor | None = None, count: int = 64
) -> None:
    """Write the first images of a batch side by side, normalisation undone, small ones enlarged.

    Args:
        path: of the PNG.
        images: as a loader yields them, ``[batch, channels, height, width]``.
        description: of their data set.
        labels: int64 ``[batch]``; their classes become captions.
        count: at most so many.

    Raises:
        UsageError: where there is nothing to show, or the file cannot be written.
    """
    shown = pixels(images[:count], description)
    if not len(shown):
        raise UsageError("there is no image to show; give at least one")
    scale = max(1, math.ceil(LEAST_SIDE / shown.shape[-1]))
    height, width = shown.shape[-2] * scale, shown.shape[-1] * scale
    below = SPACE + (CAPTION if labels is not None else 0)
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    sheet = Image.new("RGB", (columns * (width + SPACE) + SPACE, rows * (height + below) + SPACE), BACKGROUND)
    drawing = ImageDraw.Draw(sheet)
    for place, tile in enumerate(shown):
        left, top = SPACE + place % columns * (width + SPACE), SPACE + place // columns * (height + below)
        image = Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy())
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (left, top))
        if labels is not None:
            drawing.text((left, top + height), caption(description.classes[int(labels[place])]), fill=INK)
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def pixels(images: Tensor, description: Description) -> Tensor:
    """uint8 RGB ``[batch, 3, height, width]``: ``255 (x * std + mean)``, cut off at black and white."""
    # Erased rectangles hold noise beyond the range of pixels.
    std, mean = (torch.tensor(values)[:, None, None] for values in (description.std, description.mean))
    levels = ((images.detach().cpu().float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1)


def caption(name: str) -> str:
    """A class name in signs that every font has."""
    short = name if len(name) <= LONGEST_CAPTION else name[: LONGEST_CAPTION - 1] + "~"
    return short.encode("ascii", "replace").decode()
