"""Classes and how many images each has: what is missing, out of range or out of balance."""

from collections import Counter
from dataclasses import dataclass
from statistics import median_low

from orthostream.data.doctor.class_folders import TRAIN
from orthostream.data.doctor.source import Source

# The largest class against the smallest, from which on it is told.
IMBALANCE = 10
SHOWN = 5


@dataclass(frozen=True)
class Balance:
    """How the images of a split spread over classes.

    Args:
        split: its name.
        images: how many it has.
        classes: how many classes have one.
        least: images of the smallest of these.
        median: of these, the lower one where there are two.
        most: images of the largest.
    """

    split: str
    images: int
    classes: int
    least: int
    median: int
    most: int


def counts(source: Source) -> list[Counter[int]]:
    """Images a label, for each split; those without a label that counts are left out."""
    held: list[Counter[int]] = [Counter() for _ in source.splits]
    for item in source.items:
        if item.label >= 0:
            held[item.split][item.label] += 1
    return held


def balances(source: Source) -> list[Balance]:
    """How the images of each split spread over classes."""
    images = Counter(item.split for item in source.items)
    return [
        Balance(
            split,
            images[number],
            len(held),
            min(held.values(), default=0),
            median_low(held.values()) if held else 0,
            max(held.values(), default=0),
        )
        for number, (split, held) in enumerate(zip(source.splits, counts(source), strict=True))
    ]


def look_at_labels(source: Source, num_classes: int | None = None) -> None:
    """Add the findings about labels to a source that was listed.

    Args:
        source: with all its items.
        num_classes: labels must lie below it; None for as many as the source names.
    """
    limit = num_classes if num_classes is not None else len(source.classes) or None
    if limit is not None:
        for item in source.items:
            if item.label >= limit:
                detail = f"{item.label}; {limit} classes allow 0 to {limit - 1}"
                source.found("bad_label", item.where(), detail, source.splits[item.split])
    held = counts(source)
    is_training = {split: number for number, split in enumerate(source.splits)}
    train = held[is_training[TRAIN]] if TRAIN in is_training else None
    if source.splits and train is None:
        source.found("no_training", source.path, ", ".join(source.splits))
    elif len(source.splits) == 1:
        source.found("no_evaluation", source.path, TRAIN)
    for number, split in enumerate(source.splits):
        _look_at_split(source, split, held[number], None if split == TRAIN else train)


def _look_at_split(source: Source, split: str, held: Counter[int], train: Counter[int] | None) -> None:
    if held and max(held.values()) >= IMBALANCE * min(held.values()):
        (large, most), (small, least) = held.most_common(1)[0], held.most_common()[-1]
        detail = f"{source.class_name(large)} has {most:,} images, {source.class_name(small)} {least:,}"
        source.found("imbalance", split, detail, split)
    if train is None or not held:
        return
    if missing := sorted(train.keys() - held.keys()):
        source.found("never_evaluated", split, f"{len(missing)} of {len(train)}: {_some(source, missing)}", split)
    if unknown := sorted(held.keys() - train.keys()):
        source.found("never_trained", split, f"{len(unknown)}: {_some(source, unknown)}", split)


def _some(source: Source, labels: list[int]) -> str:
    """The first few classes."""
    rest = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return ", ".join(source.class_name(label) for label in labels[:SHOWN]) + rest
