"""Which pipeline is chosen, and the reason that is given."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from orthostream import data
from orthostream.data.batched import choose as choosing
from orthostream.data.batched.choose import choose_pipeline
from orthostream.data.batched.pipeline import Unsupported
from orthostream.data.held_out import hold_out
from orthostream.data.images import ImageFileSet
from orthostream.data.transforms import train_transform
from orthostream.errors import UsageError


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture
def files(tmp_path):
    """A set of image files of some sizes."""

    def make(*sizes):
        for index, size in enumerate(sizes):
            Image.new("RGB", size).save(tmp_path / f"{index}.png")
        names = [f"{index}.png" for index in range(len(sizes))]
        return ImageFileSet(tmp_path, names, torch.zeros(len(sizes), dtype=torch.int64), 2)

    return make


FLIP = v2.Compose([v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
BLUR = v2.Compose([v2.GaussianBlur(3), v2.ToImage()])


def test_images_in_memory_are_augmented_in_batches(digits):
    transform = train_transform(digits.description, "vit", randaugment_n=2)
    for images in (digits.train, hold_out(digits, 100).train):
        chosen = choose_pipeline("auto", images, transform)
        assert chosen.loading == "batched" and "in memory" in chosen.reason


def test_what_is_asked_for_is_done(digits, files):
    assert choose_pipeline("workers", digits.train, FLIP) == ("workers", "data.pipeline=workers")
    assert choose_pipeline("batched", files((4, 4), (5, 4)), FLIP) == ("batched", "data.pipeline=batched")


def test_a_step_without_batched_form_needs_workers(digits):
    chosen = choose_pipeline("auto", digits.train, BLUR)
    assert chosen.loading == "workers" and chosen.reason.startswith("GaussianBlur")
    assert chosen.reason.endswith("has no form for whole batches")
    with pytest.raises(Unsupported, match=r"GaussianBlur.*set data\.pipeline=workers"):
        choose_pipeline("batched", digits.train, BLUR)
    colourful = replace(digits.description, family="cifar", channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert choose_pipeline("auto", digits.train, train_transform(colourful, "twins")).reason.startswith("TwoViews")


def test_files_of_one_size_are_decoded_where_they_fit(files, monkeypatch):
    images = files(*[(64, 32)] * 3)
    chosen = choose_pipeline("auto", images, FLIP)
    assert chosen == ("batched", "the images are of one size and 0.0 GiB decoded, no more than 4 GiB")
    monkeypatch.setattr(choosing, "LARGEST", 3 * 64 * 32 * 3)
    assert choose_pipeline("auto", images, FLIP).loading == "batched"
    monkeypatch.setattr(choosing, "LARGEST", 3 * 64 * 32 * 3 - 1)
    chosen = choose_pipeline("auto", images, FLIP)
    assert chosen.loading == "workers" and "more than" in chosen.reason


def test_files_of_different_sizes_need_workers(files):
    chosen = choose_pipeline("auto", files((8, 8), (8, 8), (8, 9)), FLIP)
    assert chosen == ("workers", "the images are of different sizes")


def test_images_that_a_first_step_makes_equal_are_of_one_size(files):
    resized = v2.Compose([v2.Resize((4, 4)), *FLIP.transforms])
    assert choose_pipeline("auto", files((8, 8), (8, 9)), resized).loading == "batched"


def test_a_large_set_is_looked_at_in_places(files, monkeypatch):
    monkeypatch.setattr(choosing, "PROBES", 4)
    images = files(*[(8, 8)] * 12)
    looked = []
    monkeypatch.setattr(type(images), "image", lambda self, index: looked.append(index) or Image.new("RGB", (8, 8)))
    choose_pipeline("auto", images, FLIP)
    assert looked == [0, 3, 6, 9]


def test_another_word_is_refused(digits):
    with pytest.raises(UsageError, match=r"unknown data\.pipeline 'batch': did you mean batched"):
        choose_pipeline("batch", digits.train, FLIP)


def test_unreadable_images_are_skipped_by_workers(files, digits):
    images = files((8, 8))
    chosen = choose_pipeline("auto", images, FLIP, may_skip=True)
    assert chosen == ("workers", "unreadable images are skipped")
    with pytest.raises(UsageError, match=r"data\.pipeline=batched decodes all images first and skips none"):
        choose_pipeline("batched", images, FLIP, may_skip=True)
    # What is in memory was read already.
    assert choose_pipeline("auto", digits.train, FLIP, may_skip=True).loading == "batched"
