"""Crops, mirrors and maps against torchvision, and the draws of resized crops."""

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from orthostream.data.batched import geometry
from orthostream.data.batched.draws import Draws
from orthostream.data.batched.geometry import Boxes, draw_resized_crops

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_crops_as_torchvision_pads_and_cuts(mode, kind, pictures):
    for picture in (pictures["noise"], pictures["digit"], pictures["mnist"]):
        picture = picture.to(kind)
        height, width = (side - 1 for side in picture.shape[1:])
        top, left = (grid.flatten() for grid in torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"))
        found = geometry.crop(picture.expand(64, *picture.shape), top, left, (height, width), 3, mode)
        padded = functional.pad(picture, [3], padding_mode=mode)
        for image, i, j in zip(found, top.tolist(), left.tolist(), strict=True):
            assert torch.equal(image, functional.crop(padded, i, j, height, width))


def test_mirrors(pictures):
    images = torch.stack([pictures["noise"], pictures["noise"] // 2, pictures["noise"] // 3])
    found = geometry.flip(images, torch.tensor([True, False, True]))
    expected = torch.stack([functional.hflip(images[0]), images[1], functional.hflip(images[2])])
    assert torch.equal(found, expected) and torch.equal(images[0], pictures["noise"])
    assert torch.equal(geometry.flip(images, torch.zeros(3, dtype=torch.bool)), images)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@pytest.mark.parametrize("size", [(32, 32), (17, 45), (1, 2)])
def test_resized_crops_as_torchvision(size, kind, pictures, compare_levels):
    for what, picture in pictures.items():
        picture = picture if kind == torch.uint8 else picture / 255
        height, width = picture.shape[1:]
        boxes = draw_resized_crops(Draws.of(3, 0, torch.arange(16)).uniform(22), height, width, AREA, RATIO)
        found = geometry.resized_crop(picture.expand(16, *picture.shape), boxes, size)
        corners = zip(*(each.tolist() for each in boxes), strict=True)
        expected = torch.stack([functional.resized_crop(picture, *box, list(size), antialias=True) for box in corners])
        if kind == torch.uint8:
            compare_levels(found, expected, what=what)
        else:
            compare_levels(found, expected, levels=1e-5, share=1, what=what)


def test_resized_crops_as_workers_make_them(pictures, compare_levels):
    picture = pictures["imagenet1k"]
    boxes = draw_resized_crops(Draws.of(3, 0, torch.arange(32)).uniform(22), *picture.shape[1:], AREA, RATIO)
    found = geometry.resized_crop(picture.expand(32, *picture.shape), boxes, (32, 32))
    image = functional.to_pil_image(picture)
    corners = zip(*(each.tolist() for each in boxes), strict=True)
    expected = [functional.pil_to_tensor(functional.resized_crop(image, *box, [32, 32])) for box in corners]
    # Pillow's weights have 22 bits instead of 16: some values round the other way.
    compare_levels(found, torch.stack(expected), share=0.05)


@pytest.mark.parametrize("shape", [(32, 32), (20, 61)])
def test_resized_crops_are_drawn_as_torchvision_draws_them(shape):
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(8, AREA, RATIO)
    drawn = [theirs.make_params([torch.empty(3, *shape)]) for _ in range(1500)]
    ours = draw_resized_crops(Draws.of(0, 0, torch.arange(6000)).uniform(22), *shape, AREA, RATIO)
    for name in Boxes._fields:
        found = stats.ks_2samp(getattr(ours, name).numpy(), [each[name] for each in drawn])
        assert found.pvalue > 1e-3, (name, found)
    assert (ours.top + ours.height <= shape[0]).all() and (ours.left + ours.width <= shape[1]).all()


@pytest.mark.parametrize("shape", [(4, 100), (100, 4), (10, 11)])
def test_where_no_window_fits_the_centre_is_taken(shape):
    # Nothing near the whole area fits with these ratios, or only seldom.
    ours = draw_resized_crops(Draws.of(0, 0, torch.arange(50)).uniform(22), *shape, (1.0, 1.0), (1.5, 1.6))
    theirs = v2.RandomResizedCrop(8, (1.0, 1.0), (1.5, 1.6)).make_params([torch.empty(3, *shape)])
    for name in Boxes._fields:
        assert (getattr(ours, name) == theirs[name]).all()


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"])
def test_maps_of_all_magnitudes_as_torchvision(name, pictures):
    # 0.04 and its multiples put shears half-way between pixels, where the last bit decides.
    magnitudes = [0.0, 0.04, -0.12, 0.2, 0.3, -5.0, 9.0, 14.5, 30.0, -13.7]
    for picture in (pictures["noise"], pictures["cifar10"], pictures["digit"]):
        images = torch.stack([picture, picture // 2])
        for magnitude in magnitudes:
            source = geometry.source(name, magnitude, *picture.shape[1:])
            still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
            axis = [0, 0]
            axis["XY".find(name[-1])] = 1
            if name == "Rotate":
                expected = functional.rotate(images, magnitude)
            elif name.startswith("Translate"):
                moved = [int(magnitude) * each for each in axis]
                expected = functional.affine(images, **{**still, "translate": moved})
            else:
                degrees = torch.tensor(magnitude, dtype=torch.float64).atan().rad2deg().item()
                sheared = {**still, "shear": [degrees * each for each in axis]}
                expected = functional.affine(images, **sheared, center=[0, 0])
            found = geometry.warp(images, source)
            assert torch.equal(found, expected), (name, magnitude)
            assert torch.equal(geometry.warp(images.float(), source), expected.float())
