"""Which pipeline loads the training images, and why."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from orthostream.data.batched.pipeline import Unsupported, batched
from orthostream.data.batched.store import prepared
from orthostream.data.held_out import ImageSubset
from orthostream.data.images import ImageSet, ImageTensorSet
from orthostream.data.transforms import Transform
from orthostream.errors import UsageError, unknown

Loading: TypeAlias = Literal["workers", "batched"]
LOADINGS = ("auto", "workers", "batched")

# The choice depends on the data alone and not on the machine, for it decides what is drawn: a run that goes on
# elsewhere must choose the same.
LARGEST = 4 << 30
# Images whose sizes are looked at, evenly spread over the set.
PROBES = 64


class Chosen(NamedTuple):
    """A pipeline and the reason, for the log."""

    loading: Loading
    reason: str


def choose_pipeline(asked: str, images: ImageSet, transform: Transform, *, may_skip: bool = False) -> Chosen:
    """Choose between worker processes and whole batches.

    ``auto`` takes whole batches where the transform has a form for them and the images are of one size and, decoded,
    no larger than 4 GiB. Images that are in memory already always fit.

    Args:
        asked: ``auto``, ``workers`` or ``batched``.
        images: the training split.
        transform: of single images.
        may_skip: whether unreadable images are replaced by others, which workers do.

    Raises:
        UsageError: for another word, or for ``batched`` where the transform has a step without such a form, or where
            unreadable images may be skipped.

    Example:
        >>> from orthostream import data
        >>> from orthostream.data.transforms import train_transform
        >>> splits = data.load("digits")
        >>> choose_pipeline("auto", splits.train, train_transform(splits.description, "vit")).loading
        'batched'
    """
    if asked not in LOADINGS:
        raise UsageError(unknown("data.pipeline", asked, LOADINGS))
    if asked == "workers":
        return Chosen("workers", "data.pipeline=workers")
    try:
        before = batched(transform).before
    except Unsupported as error:
        if asked == "batched":
            raise
        return Chosen("workers", str(error).split(";")[0])
    has_files = not _is_in_memory(images)
    if asked == "batched" and may_skip and has_files:
        raise UsageError(
            "data.pipeline=batched decodes all images first and skips none; set data.on_bad_image=stop, or "
            "data.pipeline=workers"
        )
    if asked == "batched":
        return Chosen("batched", "data.pipeline=batched")
    if may_skip and has_files:
        return Chosen("workers", "unreadable images are skipped")
    if not has_files:
        return Chosen("batched", "the images are in memory, and each step has a form for whole batches")
    return _by_size(images, before)


def _by_size(images: ImageSet, before: Sequence[Callable[[Any], Any]]) -> Chosen:
    stride = max(1, len(images) // PROBES)
    probed = [prepared(images, index, before) for index in range(0, len(images), stride)]
    if len({each.shape for each in probed}) > 1:
        return Chosen("workers", "the images are of different sizes")
    total = len(images) * probed[0].numel()
    decoded = f"{total / 2**30:.1f} GiB decoded"
    if total > LARGEST:
        return Chosen("workers", f"the images are {decoded}, more than {LARGEST >> 30} GiB")
    return Chosen("batched", f"the images are of one size and {decoded}, no more than {LARGEST >> 30} GiB")


def _is_in_memory(images: ImageSet) -> bool:
    whole = images.images if isinstance(images, ImageSubset) else images
    return isinstance(whole, ImageTensorSet)
