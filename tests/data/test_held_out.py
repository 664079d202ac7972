"""Training images kept back, other statistics of normalisation, and the transforms of the post-activation networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from orthostream import data
from orthostream.data.description import Description
from orthostream.data.errors import DataError
from orthostream.data.held_out import ImageSubset, hold_out, normalised_by
from orthostream.data.transforms import evaluation_transform, train_transform
from orthostream.errors import UsageError

DIGITS = data.load("digits")
CIFAR = Description(
    name="cifar10",
    family="cifar",
    classes=tuple("abcdefghij"),
    channels=3,
    image_size=32,
    patch_size=4,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    eval_split="test",
)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 1436))
def test_every_training_image_is_kept_or_held_out_once(count):
    official, back = hold_out(DIGITS, count), hold_out(DIGITS, count, "held_out")
    assert isinstance(official.train, ImageSubset) and isinstance(back.evaluation, ImageSubset)
    assert sorted([*official.train.indices, *back.evaluation.indices]) == list(range(1437))
    assert len(back.evaluation) == count
    assert back.train.indices == official.train.indices
    assert official.evaluation is DIGITS.evaluation
    # a larger share holds the smaller one
    assert set(back.evaluation.indices) <= set(hold_out(DIGITS, min(count + 100, 1436), "held_out").evaluation.indices)


def test_a_subset_shows_the_images_of_the_set():
    kept = hold_out(DIGITS, 437).train
    for place in (0, 17, 999):
        index = kept.indices[place]
        assert np.array_equal(np.asarray(kept.image(place)), np.asarray(DIGITS.train.image(index)))
        assert kept.label(place) == DIGITS.train.label(index)
        assert kept.where(place) == DIGITS.train.where(index)


def test_the_split_is_recorded_and_the_same_everywhere():
    splits = hold_out(DIGITS, 5, "held_out")
    # written down once: another split would be another experiment
    assert splits.evaluation.indices == [75, 84, 119, 452, 1408]
    assert "5 of 1,437 training images are held out" in splits.notes[-1]
    assert splits.description.eval_split == "held out of training"
    assert hold_out(DIGITS, 0) is DIGITS


def test_impossible_divisions_are_refused():
    with pytest.raises(DataError, match="leaves none of the 1437"):
        hold_out(DIGITS, 1437)
    with pytest.raises(UsageError, match=r"data\.held_out is 0"):
        hold_out(DIGITS, 0, "held_out")


def test_other_statistics_normalise_both_splits():
    splits = normalised_by(DIGITS, [0.5], [0.25])
    image = DIGITS.train.image(0)
    own = evaluation_transform(replace(DIGITS.description, mean=(0.0,), std=(1.0,)), "none")(image)
    torch.testing.assert_close(evaluation_transform(splits.description, "none")(image), (own - 0.5) / 0.25)
    assert normalised_by(DIGITS, None, None).description == DIGITS.description
    with pytest.raises(UsageError, match=r"data\.std has 3 numbers, and digits has 1 channels"):
        normalised_by(DIGITS, None, (0.2, 0.2, 0.2))
    with pytest.raises(UsageError, match="must be above 0"):
        normalised_by(DIGITS, None, (0.0,))


def test_crops_of_small_images_pad_by_four_black_pixels_and_flip():
    pixels = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3) % 251 + 1
    image = Image.fromarray(pixels.astype(np.uint8))
    padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)))
    allowed = {
        crop.tobytes()
        for top in range(9)
        for left in range(9)
        for crop in (
            np.ascontiguousarray(padded[top : top + 32, left : left + 32].astype(np.uint8)),
            np.ascontiguousarray(padded[top : top + 32, left : left + 32][:, ::-1].astype(np.uint8)),
        )
    }
    transform = train_transform(CIFAR, "cnn")
    torch.manual_seed(0)
    seen = {
        (transform(image) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy().tobytes()
        for _ in range(60)
    }
    assert seen <= allowed
    assert len(seen) > 30, "crops and flips vary"


def test_photographs_are_cut_from_a_larger_square():
    described = replace(CIFAR, family="imagenet", image_size=56)
    # 256 / 224 of 56 is 64: a picture of 64 pixels is not resized, and its centre stays
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    out = evaluation_transform(described, "cnn")(Image.fromarray(pixels))
    centre = torch.from_numpy(pixels[4:60, 12:68]).permute(2, 0, 1) / 255
    torch.testing.assert_close(out, centre)
    assert train_transform(described, "cnn")(Image.fromarray(pixels)).shape == (3, 56, 56)


def test_randaugment_is_refused():
    with pytest.raises(UsageError, match="no effect in the cnn pipeline of cifar"):
        train_transform(CIFAR, "cnn", randaugment_n=2, randaugment_m=5)
