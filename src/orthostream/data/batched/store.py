"""Images in memory as one tensor of bytes."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from orthostream.data.errors import DataError
from orthostream.data.held_out import ImageSubset
from orthostream.data.images import ImageFileSet, ImageSet, ImageTensorSet
from orthostream.errors import needs_extra

with needs_extra("vision"):
    import numpy as np

# Decoding leaves Python's lock, so that threads help; more of them wait for memory.
MOST_THREADS = 8


def stored(images: ImageSet, before: Sequence[Callable[[Any], Any]] = ()) -> Tensor:
    """All images of a set, decoded once.

    Args:
        images: the set.
        before: steps of single images, done to each.

    Returns:
        uint8 ``[samples, channels, height, width]``, contiguous.

    Raises:
        DataError: for an image that cannot be read, or one of another size than the first.
    """
    if isinstance(images, ImageTensorSet) and not before:
        return images.images.contiguous()
    first = prepared(images, 0, before)
    whole = first.new_empty(len(images), *first.shape)

    def fill(index: int) -> None:
        one = prepared(images, index, before)
        if one.shape != first.shape:
            raise DataError(
                f"image {images.where(index)} has shape {list(one.shape)}, and {images.where(0)} has "
                f"{list(first.shape)} (channels, height, width); whole batches need images of one size: set "
                "data.pipeline=workers"
            )
        whole[index] = one

    # Shards and photographs in parquet are read forwards through one open file, which threads cannot share.
    whole_set = images.images if isinstance(images, ImageSubset) else images
    can_share = isinstance(whole_set, ImageFileSet | ImageTensorSet)
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1) if can_share else 1) as threads:
        # In order, so that the first failure is the one that is told.
        pending = threads.map(fill, range(len(images)))
        try:
            for _ in pending:
                pass
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return whole


def labels_of(images: ImageSet) -> Tensor:
    """All labels of a set, int64 ``[samples]``."""
    return torch.tensor([images.label(index) for index in range(len(images))], dtype=torch.int64)


def prepared(images: ImageSet, index: int, before: Sequence[Callable[[Any], Any]] = ()) -> Tensor:
    """One image as it is stored, uint8 ``[channels, height, width]``.

    Raises:
        DataError: where it cannot be read, or a step fails.
    """
    image = images.image(index)
    try:
        for step in before:
            image = step(image)
        pixels = torch.from_numpy(np.array(image))
    except Exception as error:
        raise DataError(f"the transform failed on {images.where(index)}: {type(error).__name__}: {error}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
