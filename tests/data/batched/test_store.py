"""Sets decoded once: one tensor, or an error that names the image."""

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from orthostream.data.batched.store import labels_of, stored
from orthostream.data.errors import DataError
from orthostream.data.held_out import ImageSubset
from orthostream.data.images import ImageFileSet, ImageTensorSet


def tensor_set(channels=3, count=6):
    images = torch.randint(0, 256, (count, channels, 9, 7), dtype=torch.uint8)
    return ImageTensorSet(images, torch.arange(count) % 3, 3, "some images")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_set_in_memory_is_taken_as_it_is(channels):
    images = tensor_set(channels)
    assert stored(images).data_ptr() == images.images.data_ptr()
    assert torch.equal(stored(ImageSubset(images, [4, 1])), images.images[[4, 1]])
    assert labels_of(ImageSubset(images, [4, 1])).tolist() == [1, 1]


def test_steps_of_single_images_are_done_once():
    images = tensor_set()
    resize = v2.Resize((4, 5))
    found = stored(images, [resize])
    assert found.shape == (6, 3, 4, 5) and found.is_contiguous()
    expected = torch.stack([v2.functional.pil_to_tensor(resize(images.image(index))) for index in range(6)])
    assert torch.equal(found, expected)


@pytest.fixture
def file_set(tmp_path):
    """Files of PNG images, of sizes that are given."""

    def make(*sizes):
        for index, size in enumerate(sizes):
            Image.effect_noise(size, 90).convert("RGB").save(tmp_path / f"{index}.png")
        names = [f"{index}.png" for index in range(len(sizes))]
        return ImageFileSet(tmp_path, names, torch.zeros(len(sizes), dtype=torch.int64), 2)

    return make


def test_files_are_decoded_in_order(file_set):
    images = file_set(*[(8, 6)] * 20)
    expected = torch.stack([v2.functional.pil_to_tensor(images.image(index)) for index in range(20)])
    assert torch.equal(stored(images), expected)


def test_an_image_of_another_size_is_named(file_set):
    with pytest.raises(DataError, match=r"3\.png.* has shape \[3, 6, 9\].*one size: set data\.pipeline=workers"):
        stored(file_set((8, 6), (8, 6), (8, 6), (9, 6), (8, 6)))


def test_an_unreadable_image_is_named(file_set, tmp_path):
    images = file_set(*[(8, 6)] * 5)
    (tmp_path / "2.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"cannot read image .*2\.png"):
        stored(images)


def test_a_failing_step_names_its_image():
    def fails(image):
        raise ZeroDivisionError("too wide")

    with pytest.raises(DataError, match=r"the transform failed on some images, index 0: ZeroDivisionError: too wide"):
        stored(tensor_set(), [fails])
