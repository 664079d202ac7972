"""RandAugment against torchvision's own: each operation, and what is drawn."""

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from orthostream.data.batched.draws import Draws
from orthostream.data.batched.randaugment import HAS_SIGN, OPERATIONS, RandAugment, magnitude_of

# Known to nobody else, but where torchvision changes them, so must we.
SPACE = v2.RandAugment._AUGMENTATION_SPACE


def theirs(image, name, magnitude):
    """One operation of torchvision on a tensor."""
    fill = {type(image): None}
    return v2.RandAugment()._apply_image_or_video_transform(image, name, magnitude, "nearest", fill)


def test_the_operations_are_those_of_torchvision():
    assert tuple(SPACE) == OPERATIONS
    assert [signed for _, signed in SPACE.values()] == HAS_SIGN.tolist()


@pytest.mark.parametrize("bins", [31, 11])
@pytest.mark.parametrize("name", OPERATIONS)
def test_magnitudes_are_those_of_torchvision(name, bins):
    for height, width in ((32, 32), (17, 224)):
        expected = SPACE[name][0](bins, height, width)
        for magnitude in range(bins):
            found = magnitude_of(name, magnitude, bins, height, width)
            assert found == (0.0 if expected is None else float(expected[magnitude]))


@pytest.mark.parametrize("magnitude", [0, 4, 5, 9, 15, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_as_torchvision(name, magnitude, pictures, compare_levels):
    number = OPERATIONS.index(name)
    # What was seen is 0.005 % for sharpness and 0 for all others.
    share = 0.005 if name in ("Color", "Contrast", "Sharpness") else 0.0
    for what, picture in pictures.items():
        for sign in (1, -1) if HAS_SIGN[number] else (1,):
            amount = sign * magnitude_of(name, magnitude, 31, *picture.shape[1:])
            images = torch.stack([picture, 255 - picture])
            found = RandAugment(1, magnitude).apply(images, 2 * number + (sign < 0))
            expected = torch.stack([theirs(image, name, amount) for image in images])
            compare_levels(found, expected, share=share, what=what)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_on_floats_as_torchvision(name, pictures, compare_levels):
    number, picture = OPERATIONS.index(name), pictures["noise"] / 255
    amount = magnitude_of(name, 9, 31, *picture.shape[1:])
    found = RandAugment(1, 9).apply(picture[None], 2 * number)[0]
    compare_levels(found, theirs(picture, name, amount), levels=1e-6, share=1)


def test_each_image_gets_its_own_operations_in_order(pictures, compare_levels):
    augment = RandAugment(rounds=9, magnitude=5)
    images = torch.stack([pictures["cifar10"], pictures["cifar100"], pictures["ramp"]] * 20)
    uniform = Draws.of(0, 0, torch.arange(len(images))).uniform(augment.count)
    operations, is_negative = augment.draw(uniform)
    expected = []
    for sample, image in enumerate(images):
        for name, negative in zip(operations[:, sample].tolist(), is_negative[:, sample].tolist(), strict=True):
            amount = magnitude_of(OPERATIONS[name], 5, 31, 32, 32)
            image = theirs(image, OPERATIONS[name], -amount if negative else amount)
        expected.append(image)
    before = images.clone()
    found = augment(images, uniform)
    assert torch.equal(images, before)
    # A level between two operations can become many by the next ones: few images, and of these few pixels.
    assert ((found != torch.stack(expected)).double().mean()) < 1e-3
    assert (found != torch.stack(expected)).flatten(1).any(1).double().mean() <= 0.1


def test_operations_and_signs_are_drawn_as_torchvision_draws_them(monkeypatch):
    drawn = []

    def note(self, image, name, magnitude, **_):
        drawn.append((OPERATIONS.index(name), magnitude < 0))
        return image

    torch.manual_seed(0)
    monkeypatch.setattr(v2.RandAugment, "_apply_image_or_video_transform", note)
    other = v2.RandAugment(2, 9)
    for _ in range(1500):
        other(torch.zeros(3, 32, 32, dtype=torch.uint8))
    augment = RandAugment(2, 9)
    operations, is_negative = augment.draw(Draws.of(0, 0, torch.arange(5000)).uniform(augment.count))
    ours = (2 * operations + is_negative).flatten()
    counts = torch.stack(
        [torch.bincount(each, minlength=28) for each in (ours, torch.tensor([2 * op + neg for op, neg in drawn]))]
    )
    counts = counts[:, counts.sum(0) > 0]
    # Nine operations of two signs and five of none.
    assert counts.shape[1] == 23
    assert stats.chi2_contingency(counts.numpy()).pvalue > 1e-3
    # The rounds are independent.
    pairs = torch.bincount(operations[0] * 14 + operations[1], minlength=196)
    assert stats.chisquare(pairs.numpy()).pvalue > 1e-3


def test_no_rounds_change_nothing(pictures):
    images = pictures["noise"][None]
    assert torch.equal(RandAugment(0, 9)(images, torch.empty(1, 0, dtype=torch.float64)), images)


def test_maps_fit_images_of_another_size(pictures):
    # Maps are kept, and must not be taken for images of another shape.
    augment = RandAugment(1, 9)
    for picture in (pictures["noise"], pictures["digit"], pictures["cifar10"]):
        found = augment.apply(picture[None], 2 * OPERATIONS.index("Rotate"))[0]
        assert torch.equal(found, theirs(picture, "Rotate", magnitude_of("Rotate", 9, 31, 0, 0)))
