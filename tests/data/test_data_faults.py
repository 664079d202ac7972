"""Faults of data that leave a choice to the recipe: bad images, rotation, the largest size; and odd files."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from orthostream import data
from orthostream.data.decode import FORMATS, Decoding, decode
from orthostream.data.decoded_by import decoded_by
from orthostream.data.errors import DataError
from orthostream.data.loader import EvalLoader, TrainLoader
from orthostream.errors import UsageError

IMAGES = 2000


class Images:
    """Grey images whose level tells their index; some cannot be read."""

    def __init__(self, bad=(), size=IMAGES):
        self.bad, self.size = set(bad), size

    def __len__(self):
        return self.size

    def image(self, index):
        if index in self.bad:
            raise DataError(f"cannot read image {self.where(index)}")
        return index

    def label(self, index):
        return index

    def where(self, index):
        return f"shelf, index {index}"


def as_tensor(index):
    return torch.full((1, 1, 1), float(index))


def epoch(images, workers=0, **options):
    loader = TrainLoader(images, as_tensor, seed=0, batch_size=100, workers=workers, **options)
    try:
        return loader, [micro for step in loader.epoch(0) for micro in step]
    finally:
        loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_replaced_by_the_next_and_told(workers, capfd):
    _, whole = epoch(Images())
    loader, batches = epoch(Images({5, 6}), workers, on_bad_image="skip")
    for (images, labels), (expected, _) in zip(batches, whole, strict=True):
        wanted = torch.where((expected == 5) | (expected == 6), 7, expected)
        assert torch.equal(images, wanted) and torch.equal(labels, wanted.flatten().long())
    assert sorted(loader.skipped) == [5, 6]
    assert "skipped, 2 so far" in capfd.readouterr().err


def test_more_bad_images_than_one_in_a_thousand_stop():
    with pytest.raises(DataError, match=r"3 of 2000 training images cannot be read.*allows 2.*data check"):
        epoch(Images({5, 300, 900}), on_bad_image="skip")
    with pytest.raises(DataError, match="cannot read image shelf, index"):
        epoch(Images({1}, size=500), on_bad_image="skip")


def test_by_default_and_in_evaluation_nothing_is_skipped():
    with pytest.raises(DataError, match="index 5"):
        epoch(Images({5}))
    with pytest.raises(DataError, match="index 5"):
        list(EvalLoader(Images({5}), as_tensor, batch_size=100))


def test_a_transform_that_fails_is_no_bad_image():
    def fails(index):
        raise RuntimeError("a defect")

    loader = TrainLoader(Images(), fails, seed=0, batch_size=100, on_bad_image="skip")
    with pytest.raises(DataError, match="the transform failed"):
        next(loader.epoch(0))


def photograph(path, turned=6):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = turned
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)
    return np.asarray(image)


@pytest.mark.parametrize("ending", [".png", ".webp", ".jpg"])
def test_rotation_is_applied_where_it_is_asked_for(ending, tmp_path):
    photograph(tmp_path / f"a{ending}")
    plain = np.asarray(decode(tmp_path / f"a{ending}", "RGB", ""))
    turned = np.asarray(decode(tmp_path / f"a{ending}", "RGB", "", Decoding(apply_rotation=True)))
    # Orientation 6: the camera was turned, so that the picture has to be turned right by a quarter.
    assert np.array_equal(turned, np.rot90(plain, -1))


def test_the_largest_size_is_the_recipes(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"here has 30x20 pixels, and 599 are allowed.*data\.most_pixels"):
        decode(tmp_path / "a.png", "RGB", "here", Decoding(most_pixels=599))
    assert decode(tmp_path / "a.png", "RGB", "here", Decoding(most_pixels=600)).size == (30, 20)


def test_both_splits_of_a_folder_are_decoded_as_asked(tmp_path):
    for place in ("train/a", "train/b", "val/a"):
        photograph(tmp_path / place / "1.png")
    splits = decoded_by(data.load("folder", str(tmp_path)), Decoding(apply_rotation=True))
    assert splits.train.image(0).size == splits.evaluation.image(0).size == (4, 6)
    with pytest.raises(UsageError, match="no effect on digits"):
        decoded_by(data.load("digits"), Decoding(apply_rotation=True))


def test_a_link_to_itself_and_a_pipe_stop_with_their_names(tmp_path):
    for place in ("train/a", "train/b", "val/a"):
        photograph(tmp_path / place / "1.png")
    (tmp_path / "train" / "a" / "2.png").symlink_to("2.png")
    os.mkfifo(tmp_path / "train" / "a" / "3.png")
    splits = data.load("folder", str(tmp_path))
    with pytest.raises(DataError, match=r"2\.png, index 1 \(Too many levels"):
        splits.train.image(1)
    with pytest.raises(DataError, match=r"3\.png, index 2: a pipe"):
        splits.train.image(2)


@pytest.mark.parametrize("form", ["EPS", "PCX", "TGA", "ICO"])
def test_formats_that_no_ending_means_are_refused_whatever_the_name(form, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", form)
    with pytest.raises(DataError, match=f"none of the formats {FORMATS[0]}"):
        decode(tmp_path / "a.jpg", "RGB", "here")
