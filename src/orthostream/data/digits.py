"""The 8x8 handwritten digits that come with scikit-learn: a data set for demonstrations and tests."""

import torch

from orthostream.data.description import Description, checked_size, default_patch
from orthostream.data.errors import DataError
from orthostream.data.images import ImageTensorSet
from orthostream.data.keys import key
from orthostream.data.splits import Splits
from orthostream.errors import needs_extra

SIZE = 8
BRIGHTEST = 16
# Fixed for good: another seed would be another data set.
SPLIT_SEED = 0
SPLIT_EVERY = 5
# Over the training split, pixel values in [0, 1].
MEAN, STD = (0.3048,), (0.3757,)


def digits(*, source: str | None = None, image_size: int | None = None) -> Splits:
    """1,797 grey images of the ten digits: 1,437 to train on, 360 to evaluate.

    The split is fixed and stratified: samples are sorted by class, then by a hash of their index, and every
    fifth is for evaluation. Both splits show the same writers' hands. Values 0 to 16 become 0 to 255.

    Args:
        source: must be None; the images come with scikit-learn.
        image_size: pixels a side; 8 by default.

    Raises:
        DataError: where a source is given.
        MissingExtraError: without scikit-learn.

    Reference: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (the test set).
    """
    if source is not None:
        raise DataError(f"data.source is {source!r}, but digits come with scikit-learn; leave data.source out")
    # Here and not above: importing scikit-learn takes a second that no other data set should wait for.
    with needs_extra("vision"):
        from sklearn.datasets import load_digits
    pixels, labels = load_digits(return_X_y=True)
    levels = (torch.from_numpy(pixels) * (255 / BRIGHTEST)).round().to(torch.uint8).view(-1, 1, SIZE, SIZE)
    classes = torch.from_numpy(labels).to(torch.int64)
    order = sorted(range(len(classes)), key=lambda i: (int(classes[i]), key(SPLIT_SEED, "split", i)))
    held_out = torch.tensor(sorted(order[::SPLIT_EVERY]))
    kept = torch.tensor(sorted(set(order) - set(order[::SPLIT_EVERY])))
    size = checked_size(image_size, SIZE)
    description = Description(
        name="digits",
        family="digits",
        classes=tuple(str(digit) for digit in range(10)),
        channels=1,
        image_size=size,
        patch_size=default_patch(size, tokens_a_side=4),
        mean=MEAN,
        std=STD,
        eval_split="every fifth",
    )
    return Splits(
        ImageTensorSet(levels[kept], classes[kept], 10, "digits, training split"),
        ImageTensorSet(levels[held_out], classes[held_out], 10, "digits, evaluation split"),
        description,
    )
