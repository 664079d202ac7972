"""Sets give back their pixels, and check labels when they are opened."""

import os
import pickle

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from orthostream.data.errors import DataError, printable
from orthostream.data.images import ImageFileSet, ImageTensorSet


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_an_image_in_memory_keeps_its_pixels(channels, mode):
    images = torch.randint(0, 256, (4, channels, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    held = ImageTensorSet(images, torch.tensor([0, 1, 2, 1]), 3, "here")
    assert len(held) == 4 and [held.label(i) for i in range(4)] == [0, 1, 2, 1]
    for index in range(4):
        image = held.image(index)
        assert image.mode == mode and image.size == (7, 5)
        assert torch.equal(pil_to_tensor(image), images[index])


@pytest.mark.parametrize("wrong", [-1, -100, 3])
def test_a_label_out_of_range_is_refused_at_once(wrong, tmp_path):
    labels = torch.tensor([0, 2, wrong, wrong])
    message = rf"label {wrong} at index 2 is out of range, and so are 1 more; 3 classes allow 0 to 2"
    with pytest.raises(DataError, match=message):
        ImageTensorSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), labels, 3, "here")
    with pytest.raises(DataError, match=message):
        ImageFileSet(tmp_path, ["a", "b", "c", "d"], labels, 3)


def test_each_image_needs_a_label():
    with pytest.raises(DataError, match="4 images and 3 labels"):
        ImageTensorSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), 3, "here")


def test_files_are_read_when_asked_for(tmp_path):
    Image.new("L", (3, 2), 7).save(tmp_path / "grey.png")
    (tmp_path / "broken.png").write_bytes(b"no")
    held = ImageFileSet(tmp_path, ["grey.png", "broken.png"], torch.tensor([0, 1]), 2)
    assert held.image(0).mode == "RGB" and held.image(0).getpixel((0, 0)) == (7, 7, 7)
    with pytest.raises(DataError, match=r"broken\.png, index 1 \(2 bytes\)"):
        held.image(1)
    assert pickle.loads(pickle.dumps(held)).path(0) == tmp_path / "grey.png"


def test_names_that_are_no_utf8_work_and_can_be_printed(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / name)
    held = ImageFileSet(tmp_path, [name], torch.tensor([0]), 1)
    assert held.image(0).getpixel((0, 0)) == (1, 2, 3)
    assert "caf\\xe9.png" in held.where(0)
    held.where(0).encode("utf-8")
    assert printable("plain ä") == "plain ä"
