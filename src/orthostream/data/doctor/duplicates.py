"""Images with the same pixels, whatever file or format they are stored in."""

from collections.abc import Sequence
from typing import Any

from orthostream.data.doctor.findings import Finding
from orthostream.data.doctor.source import Item
from orthostream.errors import needs_extra

with needs_extra("vision"):
    import numpy as np


def find_duplicates(
    items: Sequence[Item], digests: "np.ndarray[Any, np.dtype[np.uint64]]", splits: Sequence[str], train: int | None
) -> list[Finding]:
    """Findings about images that share their pixels: ``leaked``, ``contradiction`` and ``duplicate``.

    Of a group of images the first of training, or the first, is the original; each other one is found once or, where it
    lies in another split and another class, twice.

    Args:
        items: the images.
        digests: ``[images, 2]``, uint64: of the pixels; zeros where they could not be read.
        splits: their names.
        train: number of the split that is learned from; None without one.

    Returns:
        The findings, by image.
    """
    found: list[Finding] = []
    for group in _groups(digests):
        original = next((index for index in group if items[index].split == train), group[0])
        for index in group:
            if index != original:
                found += _about(items, index, original, splits, train)
    return sorted(found, key=lambda finding: finding.item or 0)


def _groups(digests: "np.ndarray[Any, np.dtype[np.uint64]]") -> list[list[int]]:
    """Numbers of the images of each digest that occurs more than once, rising."""
    readable = np.flatnonzero(digests.any(axis=1))
    # Stable, so that images stay in their order within a group.
    order = readable[np.lexsort((digests[readable, 1], digests[readable, 0]))]
    if not len(order):
        return []
    ranked = digests[order]
    begins = np.flatnonzero(np.r_[True, (ranked[1:] != ranked[:-1]).any(axis=1)])
    return [group.tolist() for group in np.split(order, begins[1:]) if len(group) > 1]


def _about(items: Sequence[Item], index: int, original: int, splits: Sequence[str], train: int | None) -> list[Finding]:
    item, first = items[index], items[original]
    kinds = []
    if first.split == train and item.split != train:
        kinds.append("leaked")
    if -1 not in (item.label, first.label) and item.label != first.label:
        kinds.append("contradiction")
    where, split = item.where(), splits[item.split]
    return [Finding(kind, where, f"as {first.where()}", split, index, original) for kind in (kinds or ["duplicate"])]
