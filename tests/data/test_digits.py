"""The digits: a fixed split, stated statistics."""

import hashlib

import pytest
import torch
from sklearn.datasets import load_digits

from orthostream import data
from orthostream.data.errors import DataError

EVALUATION_DIGEST = "6926a7390b4c5afd"


def test_the_split_is_fixed_stratified_and_complete():
    splits = data.load("digits")
    assert (len(splits.train), len(splits.evaluation)) == (1437, 360)
    both = torch.cat([splits.train.images, splits.evaluation.images]).flatten(1)
    original = (torch.from_numpy(load_digits().data) * 255 / 16).round().to(torch.uint8)
    assert sorted(both.tolist()) == sorted(original.tolist())
    everything = torch.bincount(torch.from_numpy(load_digits().target))
    held_out = torch.bincount(splits.evaluation.labels)
    # A fifth of each class, up to the image at either end of its stretch.
    assert (held_out - everything / 5).abs().max() < 1
    digest = hashlib.sha256(splits.evaluation.images.numpy().tobytes()).hexdigest()
    assert digest.startswith(EVALUATION_DIGEST), "published numbers refer to this split"


def test_the_stated_statistics_are_those_of_the_training_split():
    splits = data.load("digits")
    values = splits.train.images.double() / 255
    # Stated to four digits.
    assert values.mean().item() == pytest.approx(splits.description.mean[0], abs=5e-5)
    assert values.std(correction=0).item() == pytest.approx(splits.description.std[0], abs=5e-5)


def test_the_description_fits_the_images():
    splits = data.load("digits")
    facts = splits.description
    assert (facts.channels, facts.image_size, facts.patch_size, facts.num_classes) == (1, 8, 2, 10)
    assert splits.train.image(0).mode == "L" and splits.train.image(0).size == (8, 8)
    assert data.load("digits", image_size=16).description.patch_size == 4


def test_a_source_is_refused_not_ignored():
    with pytest.raises(DataError, match="come with scikit-learn"):
        data.load("digits", "some/folder")
