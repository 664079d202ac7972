"""Colours against torchvision's functions on tensors, and on PIL images where workers use these."""

import pytest
import torch
from torchvision.transforms.v2 import functional

from orthostream.data.batched import colour

FACTORS = torch.tensor([0.0, 0.1, 0.6, 0.87, 1.0, 1.0001, 1.27, 1.4, 1.9], dtype=torch.float64)
SHIFTS = torch.tensor([-0.5, -0.1, -0.03, 0.0, 0.01, 0.077, 0.1, 0.5], dtype=torch.float64)
CASES = {
    "brightness": (colour.brightness, functional.adjust_brightness, FACTORS),
    "contrast": (colour.contrast, functional.adjust_contrast, FACTORS),
    "saturation": (colour.saturation, functional.adjust_saturation, FACTORS),
    "sharpness": (colour.sharpness, functional.adjust_sharpness, FACTORS),
    "hue": (colour.hue, functional.adjust_hue, SHIFTS),
}
# Of uint8 images: the largest share of values that are one level away. Values stand on whole levels before they are
# cut off, so that the last bit of a float decides.
SHARES = {"brightness": 0.0, "contrast": 0.005, "saturation": 0.005, "sharpness": 0.005, "hue": 0.005}


@pytest.mark.parametrize("name", CASES)
def test_bytes_as_torchvision_changes_them(name, pictures, compare_levels):
    ours, theirs, factors = CASES[name]
    for what, picture in pictures.items():
        images = picture.expand(len(factors), *picture.shape)
        expected = torch.stack([theirs(picture, factor) for factor in factors.tolist()])
        compare_levels(ours(images, factors), expected, share=SHARES[name], what=what)


@pytest.mark.parametrize("name", CASES)
def test_floats_as_torchvision_changes_them(name, pictures, compare_levels):
    ours, theirs, factors = CASES[name]
    for what, picture in pictures.items():
        picture = picture / 255
        images = picture.expand(len(factors), *picture.shape)
        expected = torch.stack([theirs(picture, factor) for factor in factors.tolist()])
        # Hues go by other formulas, and each rounds in float32.
        compare_levels(ours(images, factors), expected, levels=1e-5, share=1, what=what)


@pytest.mark.parametrize("name", [name for name in CASES if name != "hue"])
def test_bytes_as_workers_change_them(name, pictures, compare_levels):
    # Pillow rounds where torchvision's functions on tensors cut off, but never more than one level away. Its hues have
    # 256 steps: they are up to 14 levels away from those of torchvision itself.
    ours, theirs, factors = CASES[name]
    for what, picture in pictures.items():
        image = functional.to_pil_image(picture)
        images = picture.expand(len(factors), *picture.shape)
        expected = torch.stack([functional.pil_to_tensor(theirs(image, factor)) for factor in factors.tolist()])
        compare_levels(ours(images, factors), expected, share=1, what=what)


@pytest.mark.parametrize("is_byte", [True, False])
def test_solarise_and_equalise_as_torchvision(is_byte, pictures, compare_levels):
    for what, picture in pictures.items():
        picture = picture if is_byte else picture / 255
        images = picture[None].expand(2, *picture.shape)
        compare_levels(colour.equalize(images)[1], functional.equalize(picture), what=what)
        for share in (0.0, 0.3, 0.5, 200 / 255, 1.0):
            threshold = share * 255 if is_byte else share
            compare_levels(colour.solarize(images, threshold)[1], functional.solarize(picture, threshold), what=what)


def test_what_is_given_stays_as_it_is(pictures):
    for picture in (pictures["noise"], pictures["noise"] / 255):
        images = picture[None].clone()
        for ours, _, factors in CASES.values():
            ours(images, factors[1:2])
        colour.equalize(images)
        colour.solarize(images, 0.5)
        assert torch.equal(images[0], picture)


def test_no_images_are_no_trouble():
    none = torch.empty(0, 3, 4, 4, dtype=torch.uint8)
    for ours, _, _ in CASES.values():
        assert ours(none, torch.empty(0, dtype=torch.float64)).shape == none.shape
