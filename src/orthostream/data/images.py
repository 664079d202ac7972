"""Labelled images by index: held in memory, or read from files when asked for."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from orthostream.data.decode import USUAL, Mode, decode
from orthostream.data.errors import DataError, printable
from orthostream.errors import needs_extra

with needs_extra("vision"):
    import numpy as np
    from PIL import Image


class ImageSet(Protocol):
    """Labelled images by index."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """The image: mode ``L`` where the set has one channel, ``RGB`` where it has three."""
        ...

    def label(self, index: int) -> int:
        """Its class."""
        ...

    def where(self, index: int) -> str:
        """Its place in the source, for messages."""
        ...


class ImageTensorSet:
    """Images held in memory.

    Args:
        images: uint8 ``[samples, channels, height, width]``, 1 or 3 channels.
        labels: int64 ``[samples]``.
        num_classes: labels lie below it.
        source: where they come from, for messages.

    Raises:
        DataError: for a label out of range, or images and labels that do not match.
    """

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int, source: str) -> None:
        if len(images) != len(labels):
            raise DataError(f"{source} has {len(images)} images and {len(labels)} labels; each image needs one")
        self.images, self.source = images, source
        self.labels = checked_labels(labels, num_classes, source)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        pixels = self.images[index]
        return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous()).numpy())

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def where(self, index: int) -> str:
        return f"{self.source}, index {index}"


class ImageFileSet:
    """Images read from files when asked for.

    Args:
        root: folder that the paths are relative to.
        paths: one a sample.
        labels: int64 ``[samples]``.
        num_classes: labels lie below it.
        mode: of the images.

    Raises:
        DataError: for a label out of range, at once; for an unreadable file, when its image is asked for.
    """

    def __init__(self, root: Path, paths: Sequence[str], labels: Tensor, num_classes: int, mode: Mode = "RGB") -> None:
        self.root, self.mode, self.decoding = root, mode, USUAL
        # One array instead of a million strings: counting references would copy their pages into each worker.
        self._paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        self.labels = checked_labels(labels, num_classes, str(root))

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """The file of a sample."""
        return self.root / os.fsdecode(bytes(self._paths[index]))

    def image(self, index: int) -> Image.Image:
        return decode(self.path(index), self.mode, self.where(index), self.decoding)

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def where(self, index: int) -> str:
        return f"{printable(str(self.path(index)))}, index {index}"


def checked_labels(labels: Tensor, num_classes: int, source: str) -> Tensor:
    """The labels, int64, all of them in ``[0, num_classes)``.

    A label out of range would be an assertion on the device much later, and -100 would silently not count.

    Raises:
        DataError: naming the first label that is not.
    """
    wrong = torch.nonzero((labels < 0) | (labels >= num_classes)).flatten()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{source}: label {int(labels[first])} at index {first} is out of range, and so are "
            f"{len(wrong) - 1} more; {num_classes} classes allow 0 to {num_classes - 1}"
        )
    return labels.to(torch.int64)
