"""The contact sheet shows the pixels that the loader's normalisation came from."""

import numpy as np
import pytest
import torch
from PIL import Image

from orthostream import data
from orthostream.data.contact_sheet import LEAST_SIDE, SPACE, caption, write_contact_sheet
from orthostream.data.loader import EvalLoader
from orthostream.data.transforms import evaluation_transform
from orthostream.errors import UsageError


@pytest.fixture
def digits():
    splits = data.load("digits")
    loader = EvalLoader(splits.evaluation, evaluation_transform(splits.description, "vit"), batch_size=5)
    return splits, *next(iter(loader))


@pytest.mark.parametrize("with_labels", [False, True])
def test_tiles_are_the_stored_images(with_labels, digits, tmp_path):
    splits, images, labels = digits
    path = tmp_path / "sheet.png"
    write_contact_sheet(path, images, splits.description, labels if with_labels else None)
    sheet = np.asarray(Image.open(path))
    for place in range(5):
        row_height = (sheet.shape[0] - SPACE) // 2
        left, top = SPACE + place % 3 * (LEAST_SIDE + SPACE), SPACE + place // 3 * row_height
        tile = sheet[top : top + LEAST_SIDE : 8, left : left + LEAST_SIDE : 8]
        assert np.array_equal(tile, np.repeat(splits.evaluation.images[place, 0].numpy()[..., None], 3, 2))


def test_no_more_than_asked_for(digits, tmp_path):
    splits, images, _ = digits
    write_contact_sheet(tmp_path / "sheet.png", images, splits.description, count=1)
    assert Image.open(tmp_path / "sheet.png").size == (LEAST_SIDE + 2 * SPACE,) * 2


def test_values_beyond_black_and_white_are_cut_off(digits, tmp_path):
    splits = digits[0]
    wild = torch.tensor([-100.0, 100.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    write_contact_sheet(tmp_path / "sheet.png", wild, splits.description)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet[SPACE, SPACE].tolist() == [0, 0, 0]
    assert sheet[SPACE, 2 * SPACE + LEAST_SIDE].tolist() == [255, 255, 255]


def test_any_class_name_can_be_drawn():
    assert caption("naïve") == "na?ve"
    assert caption("a very long class name") == "a very long~"


def test_what_cannot_be_written_is_told(digits, tmp_path):
    splits, images, _ = digits
    with pytest.raises(UsageError, match="cannot write"):
        write_contact_sheet(tmp_path / "no" / "folder.png", images, splits.description)
    with pytest.raises(UsageError, match="no image to show"):
        write_contact_sheet(tmp_path / "sheet.png", images[:0], splits.description)
